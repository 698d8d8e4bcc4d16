"""CLIPSurgery: a checkpoint, its surgery and its text tower; images and texts in, an `Explanation` out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from clip_surgery_hub.checkpoints import Checkpoint, correct_activation, load_checkpoint
from clip_surgery_hub.checkpoints.saved_surgery import INTERPOLATIONS, SavedSurgery
from clip_surgery_hub.checkpoints.saving import push, save
from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.hub import known_activation, origin, pinned_revision, resolve
from clip_surgery_hub.images.encoding import encode_images
from clip_surgery_hub.images.image_transform import ImageTransform, normalization_of
from clip_surgery_hub.images.loading import load_images
from clip_surgery_hub.images.windows import window_cells
from clip_surgery_hub.results.encoded import EncodedImages
from clip_surgery_hub.results.explanation import Explanation
from clip_surgery_hub.results.query import TextQuery
from clip_surgery_hub.results.sentence import SentenceExplanation, explain_sentence, read_caption
from clip_surgery_hub.results.settings import Settings
from clip_surgery_hub.text.cache import EmbeddingCache
from clip_surgery_hub.text.embedding import check_texts, embed_texts, reference_words
from clip_surgery_hub.text.vocabulary import unseen_words
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import apply_surgery

__all__ = ["CLIPSurgery", "EncodedImages", "Redundant"]

Redundant = Literal["auto", "class_set", "empty_text", "none"]
PRESENCE_PROMPT = "a photo of a {}."
SAME = 1e-5  # the most that a coordinate of two unit length embeddings of one text differs by rounding
Texts = str | Sequence[str] | Mapping[str, Tensor]


class CLIPSurgery:
    """A CLIP whose vision tower is read by surgery, with the text tower that asks it.

    Args:
        model: a CLIP of `transformers`, or its vision model; it is modified in place, set to eval mode and
            moved to ``device``.
        name: what results call it.
        tokenizer: of `transformers`, or None: then texts must be given as embeddings.
        processor: the checkpoint's image processor as `transformers` has it (or a processor that holds one,
            or a :class:`~clip_surgery_hub.images.image_transform.Normalization`), of which the normalization
            and the resampling filter are taken; None: only pixel values can be encoded.
        known_words: the words a small model was trained on, for a warning about others; None: no warning.
        sidecar_files: small files of the checkpoint, by name, that are saved with it as they are.
        method: how the vision tower is read, see `clip_surgery_hub.methods.METHODS`; "none" is raw CLIP.
        depth: how many of the last blocks are modified; None: the method's own depth.
        device: None: a GPU of NVIDIA's kind where there is one, else the CPU.
        interpolation: how position embeddings are resized, "bilinear" (as published) or "bicubic". No weight
            is written to.

    Raises:
        TypeError: the model has no vision tower that is supported, or the processor is of another kind.
        ValueError: unknown method or interpolation, or a depth out of range.
        RuntimeError: the model is under surgery already.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "",
        tokenizer: Any = None,
        processor: Any = None,
        known_words: frozenset[str] | None = None,
        sidecar_files: Mapping[str, bytes] = MappingProxyType({}),
        method: str = "clip_surgery",
        depth: int | None = None,
        device: str | torch.device | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', got {interpolation!r}.")
        self.normalization = normalization_of(processor)
        self.model = apply_surgery(model, method, depth).eval()
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tower = find_tower(self.model)
        self.name = name or type(model).__name__
        self.tokenizer = tokenizer
        self.known_words = known_words
        self.sidecar_files = dict(sidecar_files)
        self.interpolation = cast(Literal["bilinear", "bicubic"], interpolation)
        self.cache = EmbeddingCache()
        self._warned_words: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        method: str | None = None,
        depth: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        interpolation: str | None = None,
        revision: str | None = None,
    ) -> CLIPSurgery:
        """Load a checkpoint; files in the cache need no network.

        Args:
            name_or_path: a registered name (`list_models`), a folder as ``save_pretrained`` writes it, or a
                hub id ``owner/name``. Tokenizer and image processor files may be missing.
            method: see the class; None: as the checkpoint was saved (:meth:`save_pretrained`), else
                "clip_surgery".
            depth: see the class; None: as the checkpoint was saved with this method, else the method's own.
            device: see the class.
            dtype: of the weights; results are float32 in any case.
            interpolation: see the class; None: as the checkpoint was saved, else "bilinear".
            revision: branch, tag or commit of a hub id; None: the commit that a registered name stands for,
                else the newest.

        Raises:
            ValueError: unknown name, method, depth or interpolation, or damaged files.
            OSError: the files cannot be reached.
            TypeError: the model has no vision tower that is supported.
        """
        name = str(name_or_path)
        revision = pinned_revision(name) if revision is None else revision
        source = resolve(name)
        checkpoint = load_checkpoint(source, dtype=dtype, revision=revision)
        if activation := known_activation(source):
            correct_activation(checkpoint.model, activation, source=source)
        surgery = checkpoint.surgery.but(method=method, depth=depth, interpolation=interpolation)
        return cls(
            checkpoint.model,
            name=name,
            tokenizer=checkpoint.tokenizer,
            processor=checkpoint.normalization,
            known_words=checkpoint.known_words,
            sidecar_files=checkpoint.sidecar_files,
            method=surgery.method,
            depth=surgery.depth,
            device=device,
            interpolation=surgery.interpolation,
        )

    def save_pretrained(
        self, folder: str | Path, *, base_model: str | None = None, license: str | None = None
    ) -> None:
        """Write the model and its surgery into a folder: whole, or not at all.

        :meth:`from_pretrained` reads it as this model does, and plain `transformers` as a plain CLIP. Weights
        keep their dtype, the image processor's file and ``concepts.json`` are those of the checkpoint.

        Args:
            folder: new, empty, or with nothing in it but an earlier saved model, which is replaced; its
                ``README.md`` is kept.
            base_model: for the ``README.md``: hub id of the checkpoint it comes from; None: where this model
                was loaded from, if from the hub.
            license: for the ``README.md``: of the weights, as the hub spells it ("mit"); None: the one of the
                registered name.

        Raises:
            FileExistsError: the folder holds something else.
            OSError: it cannot be written.
            TypeError: the model or its tokenizer is not one of `transformers`.
            ValueError: the model has adapters of `peft` in it.
        """
        source, stated = origin(self.name)
        save(
            self._checkpoint(),
            folder,
            name=self.name,
            base_model=base_model or source,
            license=license or stated,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a CLIP and its surgery",
        base_model: str | None = None,
        license: str | None = None,
    ) -> str:
        """Write what :meth:`save_pretrained` writes into a repository of the Hugging Face Hub, in one commit.

        What an earlier model has there and this one has not, other weights or a tokenizer, the same commit
        deletes. Everything else stays, ``README.md`` before all.

        Args:
            repo_id: ``owner/name``; created where there is none.
            revision: branch to push to, created where there is none; None: the main one.
            private: whether a repository that is created is private; None: as the owner's default is.
            token: None: the one of ``hf auth login``, or of the environment.
            commit_message: one line.
            base_model: see :meth:`save_pretrained`.
            license: see :meth:`save_pretrained`.

        Returns:
            The commit, to be given as ``revision`` where exactly this model is wanted.

        Raises:
            OSError: the hub cannot be reached, or refuses.
            TypeError, ValueError: see :meth:`save_pretrained`; or a ``repo_id`` of another form.
        """
        source, stated = origin(self.name)
        return push(
            self._checkpoint(),
            repo_id,
            name=self.name,
            base_model=base_model or source,
            license=license or stated,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    def _checkpoint(self) -> Checkpoint:
        """What `load_checkpoint` gave, or would give of this model once it is saved."""
        return Checkpoint(
            self.model,
            self.tokenizer,
            self.normalization,
            self.known_words,
            SavedSurgery(method=self.method, depth=self.depth or None, interpolation=self.interpolation),
            self.sidecar_files,
        )

    def explain(
        self,
        images: Any,
        texts: Texts,
        *,
        redundant: Redundant | Tensor = "auto",
        size: int | None = None,
        max_side: int | None = None,
        background: Texts = (),
        window: int | None = None,
        stride: int | None = None,
    ) -> Explanation:
        """Where in each image each text is.

        Args:
            images: whatever :meth:`encode` takes, or what it returned.
            texts: one or more texts, embedded with the paper's 85 prompts; or embeddings by name, such as
                ``dict(zip(names, clip.encode_text(names, templates=None)))``.
            redundant: the feature that feature surgery takes away. "auto": the class set's own when texts and
                background are two or more, that of the empty text for one. "class_set" or "empty_text": that
                one. A tensor ``[1, C]``: this one. "none": nothing, plain similarity.
            size: see :meth:`encode`.
            max_side: see :meth:`encode`.
            background: texts (or embeddings by name) that belong to the class set but are not asked for.
            window: see :meth:`encode`.
            stride: see :meth:`encode`.

        Returns:
            An :class:`Explanation`, all tensors float32 on the CPU.

        Raises:
            ImageError: an image cannot be read; the message is one line.
            ValueError: for no text, or settings that contradict each other.
        """
        query = self.text_query(texts, background=background, redundant=redundant)
        options = {"size": size, "max_side": max_side, "window": window, "stride": stride}
        if isinstance(images, EncodedImages):
            self._check_encoded(images, options)
        else:
            images = self.encode(images, **options)
        return query.explain(images)

    def text_query(
        self, texts: Texts, *, background: Texts = (), redundant: Redundant | Tensor = "auto"
    ) -> TextQuery:
        """Texts ready to be asked of many images: ``clip.text_query(texts).explain(clip.encode(images))``.

        Args:
            texts: see :meth:`explain`.
            background: see :meth:`explain`.
            redundant: see :meth:`explain`.

        Raises:
            ValueError: for no text, an unknown ``redundant``, or the class set's own feature where all its
                texts are the same.
        """
        names, embeds = self._embeds_by_name(texts)
        others, other_embeds = self._embeds_by_name(background) if len(background) else ((), embeds[:0])
        class_set = torch.cat([embeds, other_embeds])
        given = isinstance(texts, Mapping)
        presence_texts, presence_reference = (None, None) if given else self._presence_embeds(names)
        return TextQuery(
            texts=names,
            background=others,
            class_set=class_set,
            redundant=self._redundant_feature(redundant, class_set),
            redundant_name=redundant if isinstance(redundant, str) else "given",
            templates="given" if given else "paper",
            presence_texts=presence_texts,
            presence_reference=presence_reference,
        )

    def sentence(
        self, image: Any, caption: str, *, size: int | None = None, max_side: int | None = None
    ) -> SentenceExplanation:
        """Which words of a caption one image responds to, and where (the paper's multimodal visualization).

        Args:
            image: one image, or one that :meth:`encode` returned.
            caption: a sentence or more, in whole within the text tower's context.
            size: see :meth:`encode`.
            max_side: see :meth:`encode`.

        Raises:
            ImageError: the image cannot be read.
            TypeError, ValueError: what :func:`~clip_surgery_hub.results.sentence.read_caption` refuses.
        """
        read = read_caption(self.model, self.tokenizer, caption)
        if isinstance(image, EncodedImages):
            self._check_encoded(image, {"size": size, "max_side": max_side})
        else:
            image = self.encode([image], size=size, max_side=max_side)
        return explain_sentence(image, read, empty=self.encode_text([""])[0])

    def encode(
        self,
        images: Any,
        *,
        size: int | None = None,
        max_side: int | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> EncodedImages:
        """Encode images once, to :meth:`explain` them many times.

        Args:
            images: one image or many of any sizes: paths, PIL images, arrays ``[H, W, 3]`` or tensors
                ``[3, H, W]`` (uint8, uint16, or floats in [0, 1]); see `images.load_image`.
            size: the short side in pixels; None: the checkpoint's own. The aspect is kept, both sides are
                rounded to whole patches, nothing is cropped.
            max_side: the longest side in pixels; None: 4 x ``size``.
            window: side of a window in pixels that slides over the image, for images larger than the
                checkpoint was trained on; None: the image at once.
            stride: step of the window in pixels; None: half of the window.

        Raises:
            ImageError: an image cannot be read.
            ValueError: settings that contradict each other, or a checkpoint without image processor file.
        """
        transform = self.image_transform(size=size, max_side=max_side)
        if stride is not None and window is None:
            raise ValueError(
                f"stride={stride} needs a window; give its side in pixels as window= (--window)."
            )
        cells = None if window is None else window_cells(window, stride, patch=transform.patch_size)
        loaded = load_images(images)
        encode = partial(self.tower.encode, interpolation=self.interpolation)
        tokens = encode_images(encode, loaded, transform, window=cells)
        return EncodedImages(
            tokens=tuple(tokens),
            grids=tuple(transform.grid_of(image.height, image.width) for image in loaded),
            sizes=tuple((image.height, image.width) for image in loaded),
            settings=self.settings(size=size, max_side=max_side, window=window, stride=stride),
            images=tuple(map(np.asarray, loaded)),
        )

    def image_transform(self, *, size: int | None = None, max_side: int | None = None) -> ImageTransform:
        """From an RGB image to the pixels that the vision tower takes.

        Args:
            size: see :meth:`encode`.
            max_side: see :meth:`encode`.

        Raises:
            ValueError: a size that holds no patch, or a checkpoint without image processor file.
        """
        if self.normalization is None:
            raise ValueError(
                f"{self.name} has no image processor file (preprocessor_config.json) that tells how images "
                "are normalized; add it, or normalize them yourself and call encode_image."
            )
        return ImageTransform(
            size=self.tower.native_size if size is None else size,
            patch_size=self.tower.patch_size,
            max_side=max_side,
            normalization=self.normalization,
        )

    @torch.no_grad()
    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Unit length tokens of pixels: CLS of CLIP itself, patches as the method reads them.

        Args:
            pixel_values: ``[B, 3, H, W]``, normalized as the checkpoint wants it, at least a patch in size.

        Returns:
            ``[B, 1+N, C]``, CLS first, float32 on the CPU, detached. N = h * w in reading order, where
            h = H // patch and w = W // patch.

        Raises:
            ValueError: for another shape, or a size that holds no patch.
        """
        return self.encode_pixels(pixel_values).cpu()

    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        """As :meth:`encode_image`, but left where the model is, and with gradients."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values must have shape [B, 3, H, W], got {list(pixel_values.shape)}.")
        return self.tower.encode(pixel_values, interpolation=self.interpolation).float()

    def encode_text(
        self,
        texts: str | Sequence[str],
        templates: str | Sequence[str] | None = "paper",
        *,
        truncate: bool = False,
    ) -> Tensor:
        """Unit length embeddings of texts, looked up in the cache first.

        Args:
            texts: one text or T texts.
            templates: "paper": the mean over the 85 prompts of the paper; None: the bare text; or a list of
                your own, each with ``{}`` where the text goes.
            truncate: cut prompts that are longer than the model's context instead of refusing them.

        Returns:
            ``[T, C]``, float32 on the CPU.

        Raises:
            ValueError: for no text, a text longer than the context, wrong templates, or a checkpoint without
                text tower or tokenizer.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        self._check_tokenizer()
        embeds = embed_texts(
            self.model, self.tokenizer, texts, templates=templates, truncate=truncate, cache=self.cache
        )
        self._warn_of_unseen_words(texts)
        return embeds

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise what :meth:`encode_text` would, without the work of embedding.

        Raises:
            ValueError: see :meth:`encode_text`.
        """
        self._check_tokenizer()
        check_texts(self.model, self.tokenizer, list(texts))

    @property
    def method(self) -> str:
        """Name of the method the vision tower is read by; "none" is raw CLIP."""
        return "none" if self.tower.surgery is None else self.tower.surgery.method.name

    @property
    def depth(self) -> int:
        """How many of the last blocks are modified; 0 for the method "none"."""
        return 0 if self.tower.surgery is None else self.tower.surgery.depth

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next(self.model.parameters()).dtype

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarity in CLIP's softmax (not its logarithm).

        Raises:
            AttributeError: for a vision model alone, which has none.
        """
        return float(cast(Tensor, self.model.logit_scale).detach().exp())

    def settings(self, **options: Any) -> Settings:
        """How this model reads images, with the options of :meth:`encode` that are given."""
        depth = self.depth or None
        return Settings(
            model=self.name, method=self.method, depth=depth, interpolation=self.interpolation, **options
        )

    def __repr__(self) -> str:
        return f"CLIPSurgery({self.name}, {self.method} at depth {self.depth}, {self.dtype} on {self.device})"

    def _check_tokenizer(self) -> None:
        if self.tokenizer is None and hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"{self.name} has no tokenizer files; add them, or give embeddings by name instead of texts."
            )

    def _check_encoded(self, images: EncodedImages, options: Mapping[str, int | None]) -> None:
        """Refuse options of `encode`, and images that were encoded in another way."""
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"the images are encoded already; give {', '.join(given)} to encode instead.")
        images.check_read_as(self.settings())

    def _embeds_by_name(self, texts: Texts) -> tuple[tuple[str, ...], Tensor]:
        """T texts and their embeddings ``[T, C]``, unit length."""
        if isinstance(texts, Tensor):
            raise TypeError("embeddings need their names: give dict(zip(names, embeddings)).")
        if not isinstance(texts, Mapping):
            names = (texts,) if isinstance(texts, str) else tuple(texts)
            return names, self.encode_text(names)
        shapes = {tuple(embedding.shape) for embedding in texts.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"embeddings by name must all have one shape [C], got {sorted(shapes)}.")
        embeds = torch.stack([embedding.detach().float().cpu() for embedding in texts.values()])
        return tuple(texts), unit_length(embeds)

    def _redundant_feature(self, redundant: Redundant | Tensor, class_set: Tensor) -> Tensor | None:
        """What to give to `feature_surgery`, ``[1, C]`` or None for the class set's own."""
        if isinstance(redundant, Tensor):
            return redundant.detach().float().cpu()
        check_redundant(redundant)
        if redundant == "none":
            return torch.zeros_like(class_set[:1])
        if redundant == "empty_text" or (redundant == "auto" and len(class_set) == 1):
            return self.encode_text([""])
        if len(class_set) > 1 and torch.allclose(class_set, class_set[:1], rtol=0, atol=SAME):
            raise ValueError(
                f"all {len(class_set)} texts of the class set are the same to {self.name}, so that nothing "
                'is left of them without what they share; give other texts, or redundant="empty_text".'
            )
        return None

    def _presence_embeds(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings ``[T, C]``, and ``[R, C]`` of reference words, by one prompt each, which is quick."""
        words = [*texts, *reference_words()]
        embeds = embed_texts(
            self.model, self.tokenizer, words, templates=[PRESENCE_PROMPT], truncate=True, cache=self.cache
        )
        return embeds[: len(texts)], embeds[len(texts) :]

    def _warn_of_unseen_words(self, texts: Sequence[str]) -> None:
        unseen = [] if self.known_words is None else unseen_words(texts, self.known_words)
        new = [word for word in unseen if word not in self._warned_words]
        if new:
            self._warned_words.update(new)
            warnings.warn(
                f"{self.name} was shown nothing called {', '.join(map(repr, new))} in training: what it "
                f"says of {'it' if len(new) == 1 else 'them'} means nothing. A full-size CLIP knows most "
                'words: CLIPSurgery.from_pretrained("openai/clip-vit-base-patch16"), in a terminal --model.',
                stacklevel=3,
            )


def check_redundant(redundant: str) -> None:
    """Refuse a name that is none of :data:`Redundant`.

    Raises:
        ValueError: for any other.
    """
    if redundant not in get_args(Redundant):
        raise ValueError(
            f"redundant must be one of {', '.join(map(repr, get_args(Redundant)))} or a tensor [1, C], "
            f"got {redundant!r}."
        )
