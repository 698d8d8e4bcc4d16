"""The CLIP that is trained, and what its training minimizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from data import Stage, stage_at, words_of_the_world
from muon import Muon
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from clip_surgery_hub.scenes import load_sprites

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CONTEXT = 48
PROJECTION = 128
BACKGROUND = 0.25
"""How much the word of a background counts in the loss over words, where that of an object counts 1."""


def build_clip(tokenizer: CLIPTokenizer, *, size: int, patch: int, width: int, depth: int) -> CLIPModel:
    """A CLIP with random weights: a vision tower of `depth` blocks, a text tower of three."""
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "image_size": size,
        "patch_size": patch,
        "projection_dim": PROJECTION,
    }
    text = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": PROJECTION,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=PROJECTION))
    model.set_attn_implementation("eager")  # for sequences this short the fastest backward pass
    return model


def window_positions(positions: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Positions of `count` images smaller than the native grid: each has a random window of it.

    Neighboring patches stay neighbors in the grid, as in a large image of which only a part is seen, so
    that what is learnt on small images holds on large ones. Resized positions would move them apart.

    Args:
        positions: [N * N, C] of the native grid, in reading order.
        count: B.
        rows: of the images' patch grid, N at most.
        columns: likewise.

    Returns:
        [B, rows * columns, C].
    """
    side = round(len(positions) ** 0.5)
    top = torch.randint(side - rows + 1, (count, 1, 1))
    left = torch.randint(side - columns + 1, (count, 1, 1))
    row, column = top + torch.arange(rows)[:, None], left + torch.arange(columns)
    places = (row * side + column).flatten(1).to(positions.device)
    return F.embedding(places, positions)


def multi_positive(logits: Tensor, shown: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of each shown word against the words not shown, averaged over an image's words.

    Args:
        logits: [B, C].
        shown: [B, C], 1 shown, 0 not shown, -1 neither (left out). Rows without a shown word do not count.
        weights: how much each word counts in the average, [C] or [B, 1].
    """
    rest = logits.masked_fill(shown != 0, float("-inf")).logsumexp(1, keepdim=True)
    loss = F.softplus(rest - logits)  # -log(e^l / (e^l + rest))
    hits = (shown == 1).float() * weights
    rows = hits.sum(1) > 0
    return ((loss * hits).sum(1)[rows] / hits.sum(1)[rows]).mean()


class TrainClip(lightning.LightningModule):
    """Training at image level only: nothing tells the model where an object is.

    Every word of the world has an anchor in the shared space, a free vector that is dropped after training.
    Images are distinguished by the anchors of the words they show, several of which may be shown; the text
    tower learns to put every wording of a word onto its anchor. So neither tower waits for the other: a text
    tower that has learnt little yet is a poor teacher of a vision tower, and was what held it back. CLIP's
    own loss against the captions of the batch goes beside it, and is what joins several words in one text.
    Hidden matrices learn by Muon, the rest by AdamW; the learning rate warms up, holds, and falls to zero
    over the last part.
    """

    def __init__(
        self,
        model: CLIPModel,
        stages: Sequence[Stage],
        *,
        steps: int,
        rate: float = 2e-3,
        muon_rate: float = 0.02,
        warmup: int = 100,
        decay: float = 0.3,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.forward_image = (
            torch.compile(self.encode_image, dynamic=False) if compiled else self.encode_image
        )
        self.stages = tuple(stages)
        self.concepts = len(load_sprites().concepts)
        words = len(words_of_the_world())
        weights = torch.where(torch.arange(words) < self.concepts, 1.0, BACKGROUND)
        self.register_buffer("weights", weights, persistent=False)
        self.anchors = torch.nn.Parameter(0.1 * torch.randn(words, PROJECTION))
        self.steps, self.rate, self.muon_rate, self.warmup, self.decay = steps, rate, muon_rate, warmup, decay
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for embeddings, norms, biases and projections."""
        hidden = [p for name, p in self.model.named_parameters() if p.ndim == 2 and ".layers." in name]
        chosen = {id(p) for p in hidden}
        rest = [p for p in self.parameters() if id(p) not in chosen]
        return [
            Muon(hidden, lr=self.muon_rate),
            torch.optim.AdamW(rest, lr=self.rate, weight_decay=0.01, betas=(0.9, 0.98)),
        ]

    def encode_image(self, pixels: Tensor, keep: float) -> Tensor:
        """Unit image embeddings [B, D] from a random share `keep` of the patches."""
        vision = self.model.vision_model
        mean, std = (pixels.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (MEAN, STD))
        patches = vision.embeddings.patch_embedding((pixels.float() / 255 - mean) / std)
        positions = vision.embeddings.position_embedding.weight
        grid = window_positions(positions[1:], len(patches), patches.shape[2], patches.shape[3])
        first = (vision.embeddings.class_embedding + positions[0]).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches.flatten(2).mT + grid], 1)
        if keep < 1:
            count = tokens.shape[1] - 1
            chosen = torch.rand(tokens.shape[0], count, device=tokens.device).argsort(1)[
                :, : int(count * keep)
            ]
            patches = tokens[:, 1:].gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
            tokens = torch.cat([tokens[:, :1], patches], 1)
        tokens = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
        return F.normalize(self.model.visual_projection(vision.post_layernorm(tokens[:, 0])).float(), dim=-1)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Unit text embeddings [T, D]."""
        return F.normalize(self.model.get_text_features(input_ids).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def put_anchors_at(self, input_ids: Tensor) -> None:
        """Put the anchors, which an exported CLIP lacks, where its text tower reads the words [C, L]."""
        self.anchors.copy_(self.encode_text(input_ids))

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """One update from a batch of `SceneBatches`."""
        share = self.global_step / 2 / self.steps  # two optimizers, so Lightning counts each step twice
        image = self.forward_image(batch["pixels"], stage_at(self.stages, share).keep)
        captions, words = self.encode_text(batch["captions"]), self.encode_text(batch["words"])
        scale = self.model.logit_scale.exp()
        pairs = scale * image[: len(captions)] @ captions.T
        same = torch.arange(len(pairs), device=pairs.device)
        contrast = (F.cross_entropy(pairs, same) + F.cross_entropy(pairs.T, same)) / 2
        anchors = F.normalize(self.anchors, dim=-1)
        named = scale * image @ anchors.T
        shown, weights = batch["shown"], self.weights
        concept = multi_positive(named, shown, weights) + 0.5 * multi_positive(
            named.T, shown.T, torch.ones_like(named[:, 0])
        )
        # Images alone move the anchors; the texts follow.
        alike = words @ anchors.detach().T
        wording = F.cross_entropy(scale.detach() * alike, batch["meant"])
        distance = 1 - alike.gather(1, batch["meant"][:, None]).mean()
        loss = 0.5 * contrast + concept + wording + 5 * distance
        self._update(loss, share)
        with torch.no_grad():
            first = named[:, : self.concepts].argmax(1)
            hit = (batch["shown"].gather(1, first[:, None]) == 1).float().mean()
        self.log_dict(
            {
                "loss": loss,
                "contrast": contrast,
                "concept": concept,
                "wording": wording,
                "distance": distance,
                "hit": hit,
                "scale": scale,
                "share": share,
            },
            prog_bar=True,
        )

    def _update(self, loss: Tensor, share: float) -> None:
        optimizers: Any = self.optimizers()
        step = self.global_step // 2
        factor = min(1.0, (step + 1) / self.warmup, max(0.0, (1 - share) / self.decay))
        for optimizer, rate in zip(optimizers, (self.muon_rate, self.rate), strict=True):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=4.6052)  # at most 100, as CLIP's
