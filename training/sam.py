"""What the training of the small SAM minimizes."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from muon import Muon
from sam_data import GROUPS
from sam_from_clip import normalized
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamModel


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy per pixel plus dice loss of every mask.

    Args:
        logits: [N, M, S, S], M masks proposed for each prompt.
        target: [N, 1, S, S], 0 or 1.

    Returns:
        [N, M]: `2 * mean of the cross entropy + 1 - (2 sum pt + 1) / (sum p + sum t + 1)`.
    """
    # Written out, because logits times target is read twice: cross entropy is softplus(l) - l t.
    size = logits.shape[2] * logits.shape[3]
    inside = (logits * target).sum((2, 3))
    entropy = (F.softplus(logits).sum((2, 3)) - inside) / size
    chance = logits.sigmoid()
    both = torch.einsum("nmhw,nhw->nm", chance, target[:, 0])
    dice = 1 - (2 * both + 1) / (chance.sum((2, 3)) + target.sum((2, 3)) + 1)
    return 2 * entropy + dice


@torch.no_grad()
def overlaps(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of the masks, cut at 0: [N, M, S, S], [N, 1, S, S] -> [N, M]."""
    found, meant = logits > 0, target > 0.5
    return (found & meant).sum((2, 3)) / (found | meant).sum((2, 3)).clamp(min=1)


class TrainSam(lightning.LightningModule):
    """Masks of whole objects from points; every image is encoded once and asked many times.

    A scene is not ambiguous, so all three masks learn the same target, and the best of them once more, which
    lets them differ where a prompt is hard. The score learns the masks' actual overlap. Losses are taken at
    the size of the image, after the resize that comes before the cut at 0.

    The blocks of the image encoder, which begin trained, learn by Muon at a smaller rate than the matrices
    of the decoder, and everything else by AdamW. Rates warm up, hold, and fall to zero over the last part.
    """

    def __init__(
        self,
        model: SamModel,
        *,
        steps: int,
        rate: float,
        encoder_rate: float,
        decoder_rate: float,
        warmup: int,
        decay: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.steps, self.warmup, self.decay = steps, warmup, decay
        self.rate, self.encoder_rate, self.decoder_rate = rate, encoder_rate, decoder_rate
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the encoder's and the decoder's hidden matrices, AdamW for the rest."""
        blocks = _matrices(self.model.vision_encoder.layers)
        hidden = _matrices(self.model.mask_decoder)
        chosen = {id(p) for p in (*blocks, *hidden)}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in chosen]
        begun = {id(p) for name, p in self.model.vision_encoder.named_parameters() if "neck" not in name}
        groups = [
            {"params": [p for p in rest if id(p) not in begun], "lr": self.rate},
            {"params": [p for p in rest if id(p) in begun], "lr": self.rate / 4},
        ]
        optimizers = [
            Muon(blocks, lr=self.encoder_rate),
            Muon(hidden, lr=self.decoder_rate),
            torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["initial_lr"] = group["lr"]
        return optimizers

    @property
    def step(self) -> int:
        """Finished updates; Lightning counts every optimizer by itself."""
        return self.global_step // OPTIMIZERS

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """One update from a batch of `PromptBatches`."""
        embeddings = self.model.vision_encoder(normalized(batch["pixels"])).last_hidden_state
        metrics: dict[str, Tensor] = {}
        total = embeddings.new_zeros(())
        prompts = sum(group.prompts for group in GROUPS.values())
        for name, group in GROUPS.items():
            loss, picked = self._ask(embeddings, batch, name)
            metrics |= {f"loss.{name}": loss, f"picked.{name}": picked}
            total = total + loss * group.prompts / prompts
        self._update(total)
        self.log_dict({"loss": total, **metrics, "done": self.step})

    def _ask(self, embeddings: Tensor, batch: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
        """Loss of one group of prompts, and the mean overlap of the masks that the score picks."""
        chosen, objects = batch[f"{name}.object"], batch["objects"]
        found = self.model(
            image_embeddings=embeddings,
            input_points=batch[f"{name}.points"],
            input_labels=batch[f"{name}.labels"],
            multimask_output=not GROUPS[name].single,
        )
        target = objects[torch.arange(len(objects), device=objects.device)[:, None], chosen]  # [B, P, S, S]
        target = target.flatten(0, 1)[:, None].float()
        logits = found.pred_masks.flatten(0, 1).float()  # [B * P, M, h, w]
        logits = F.interpolate(logits, target.shape[2:], mode="bilinear", align_corners=False)
        scores = found.iou_scores.flatten(0, 1).float()  # [B * P, M]
        losses, actual = mask_losses(logits, target), overlaps(logits, target)
        loss = (losses.mean(1) + losses.amin(1)) / 2 + F.mse_loss(scores, actual)
        picked = actual.gather(1, scores.argmax(1, keepdim=True)).mean()
        return loss.mean(), picked

    def _update(self, loss: Tensor) -> None:
        optimizers: Any = self.optimizers()
        left = 1 - self.step / self.steps
        factor = min(1.0, (self.step + 1) / self.warmup, left / self.decay)
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()


OPTIMIZERS = 3


def _matrices(part: nn.Module) -> list[nn.Parameter]:
    """The weights of linear maps between hidden features, without those that make the outputs."""
    return [
        module.weight
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("proj_out")
    ]
