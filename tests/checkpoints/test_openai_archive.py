import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import build_model_from_openai_state_dict
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import normalize
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery, apply_surgery
from clip_surgery_hub.checkpoints import load_checkpoint
from clip_surgery_hub.checkpoints.timm_clip import TimmCLIP
from clip_surgery_hub.checkpoints.torchscript import named_tensors, read_torchscript
from clip_surgery_hub.towers import find_tower
from tests.support.open_clip_models import surgery_tokens

SIDES = {"ViT": 32, "RN": 64}
END = 49


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = (
            nn.Linear(width, 4 * width),
            activation,
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, activation: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = Mlp(width, activation)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, activation: nn.Module, tokens: int) -> None:
        super().__init__()
        mask = torch.zeros(tokens, tokens)
        self.resblocks = nn.Sequential(*(Block(width, heads, activation, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.input_resolution = SIDES["ViT"]
        self.conv1 = nn.Conv2d(3, 128, 8, stride=8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(128))
        self.positional_embedding = nn.Parameter(torch.randn(17, 128))
        self.ln_pre, self.ln_post = nn.LayerNorm(128), nn.LayerNorm(128)
        self.transformer = Transformer(128, 3, heads, activation, 17)
        self.proj = nn.Parameter(torch.randn(128, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_pre(self.conv1(x).flatten(2).mT) @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.avgpool = nn.AvgPool2d(stride)
        down: OrderedDict[str, nn.Module] = OrderedDict()
        down["-1"] = nn.AvgPool2d(stride)
        down["0"] = nn.Conv2d(inplanes, 4 * planes, 1, bias=False)
        down["1"] = nn.BatchNorm2d(4 * planes)
        self.downsample = nn.Sequential(down)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn3(self.conv3(self.avgpool(self.bn2(self.conv2(self.bn1(self.conv1(x)))))))


class AttentionPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(5, 256))
        self.k_proj, self.q_proj, self.v_proj = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 256)
        self.c_proj = nn.Linear(256, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.v_proj(x.flatten(2).mT))


class ModifiedResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Bottleneck(8, 8, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 16, 2))
        self.layer3 = nn.Sequential(Bottleneck(64, 32, 2))
        self.layer4 = nn.Sequential(Bottleneck(128, 64, 2))
        self.attnpool = AttentionPool()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn3(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x))))))
        return self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


class CLIP(nn.Module):
    """The tree of modules in OpenAI's archives; what it computes is of no interest here."""

    def __init__(self, visual: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(64, 2, 1, activation, 16)
        self.token_embedding = nn.Embedding(END + 1, 64)
        self.positional_embedding = nn.Parameter(torch.randn(16, 64))
        self.ln_final = nn.LayerNorm(64)
        self.text_projection = nn.Parameter(torch.randn(64, 24))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        for name, number in (("input_resolution", 32), ("context_length", 16), ("vocab_size", END + 1)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.token_embedding(text) + self.positional_embedding
        hidden = self.ln_final(self.transformer(hidden.transpose(0, 1)))
        return self.visual(image), hidden @ self.text_projection * self.logit_scale


def published(kind: str, *, heads: int = 2, activation: Callable[[], nn.Module] = QuickGELU) -> CLIP:
    """A random model, its weights of matrices in half precision as OpenAI's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(
            VisionTransformer(heads, activation()) if kind == "ViT" else ModifiedResNet(), activation()
        ).eval()
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name.endswith("running_var"):
                    tensor.add_(torch.rand_like(tensor))
                elif name.endswith(("weight", "bias", "running_mean")):
                    tensor.add_(torch.randn_like(tensor), alpha=0.1)
                if tensor.is_floating_point():  # OpenCLIP rounds more of them than OpenAI to half precision
                    tensor.copy_((tensor / 4 if tensor.ndim == 2 else tensor).half())
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
    model.text_projection.data = model.text_projection.data.half()
    return model


def archive(path: Path, model: nn.Module) -> Path:
    """A TorchScript archive as `torch.jit` writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, OpenAI's files are not
        torch.jit.save(torch.jit.script(model), path)
    return path


@pytest.fixture(scope="module", params=SIDES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A kind, OpenCLIP's model of the same weights in float32, and the archive."""
    model = published(request.param)
    path = archive(tmp_path_factory.mktemp("openai") / "clip.pt", model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return request.param, build_model_from_openai_state_dict(state, cast_dtype=None).float(), path


def close(found: Tensor, expected: Tensor) -> bool:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) <= 1e-5


def inputs(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, END, (2, 16), generator=generator)
    ids[:, 7], ids[:, 8:] = END, 0
    return torch.randn(2, 3, SIDES[kind], SIDES[kind], generator=generator), ids


@torch.no_grad()
def test_features_are_those_of_the_same_weights(case: tuple[str, Any, Path]) -> None:
    kind, theirs, path = case
    checkpoint = load_checkpoint(str(path))
    ours, (pixels, ids) = checkpoint.model, inputs(kind)
    assert type(ours) is {"ViT": CLIPModel, "RN": TimmCLIP}[kind] and not ours.training
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.float32}
    assert close(ours.get_image_features(pixel_values=pixels).pooler_output, theirs.encode_image(pixels))
    assert close(ours.get_text_features(input_ids=ids).pooler_output, theirs.encode_text(ids))
    assert checkpoint.tokenizer is None and checkpoint.normalization is not None
    assert checkpoint.normalization.mean == (0.48145466, 0.4578275, 0.40821073)


@torch.no_grad()
def test_surgery_is_that_of_the_modules_written_out(case: tuple[str, Any, Path]) -> None:
    kind, theirs, path = case
    tower = find_tower(apply_surgery(load_checkpoint(str(path)).model))
    expected = surgery_tokens(theirs, inputs(kind)[0], depth=len(tower.blocks))
    assert close(tower.encode(inputs(kind)[0]), normalize(expected, dim=-1))


def test_a_file_is_a_name_of_a_model(case: tuple[str, Any, Path]) -> None:
    kind, _, path = case
    clip = CLIPSurgery.from_pretrained(str(path), device="cpu", dtype=torch.bfloat16)
    assert clip.dtype == torch.bfloat16
    assert clip.encode_image(inputs(kind)[0]).shape == (2, 1 + {"ViT": 16, "RN": 4}[kind], 24)


def test_weights_alone_are_read_where_they_say_that_they_are_openais(tmp_path: Path) -> None:
    model = published("ViT")
    expected = load_checkpoint(str(archive(tmp_path / "clip.pt", model))).model.state_dict()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    found = load_checkpoint(str(tmp_path / "weights.pt")).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    unmarked = {name: tensor for name, tensor in model.state_dict().items() if name != "input_resolution"}
    torch.save(unmarked, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="do not say which activation they were trained with"):
        load_checkpoint(str(tmp_path / "weights.pt"))


def test_another_activation_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "clip.pt", published("ViT", activation=nn.GELU))
    with pytest.raises(ValueError, match=r"mlp\.gelu is '__torch__.*GELU', where OpenAI's"):
        load_checkpoint(str(path))


def test_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "clip.pt", published("ViT", heads=4))
    with pytest.raises(ValueError, match="attn has 4 heads for 128 channels, where OpenAI's models have 64"):
        load_checkpoint(str(path))


def test_another_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "clip.pt", nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"is no CLIP by OpenAI: it has no text_projection"):
        load_checkpoint(str(path))
    with_more = published("ViT")
    with_more.visual.prompt = nn.Parameter(torch.zeros(3))
    message = r"holds 1 weight that CLIPModel of its configuration has no place for \(visual.prompt\)"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(archive(tmp_path / "more.pt", with_more)))


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rewritten(path: Path, changes: dict[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with other content of some of its files, None to leave one out."""
    content = members(path) | changes
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, data in content.items():
            if data is not None:
                opened.writestr(name, data)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """An archive that loads."""
    return archive(tmp_path / "clip.pt", published("ViT"))


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def hostile(name: str, marker: Path) -> bytes:
    """A pickle that makes a file, if anything of it is executed."""
    import os

    if name == "os.system":
        return pickle.dumps(Evil(os.system, f"touch {marker}"), protocol=2)
    if name == "builtins.eval":
        return pickle.dumps(Evil(eval, f"open({str(marker)!r}, 'w')"), protocol=2)
    if name == "pathlib":
        return pickle.dumps(Evil(Path.touch, marker), protocol=4)
    if name == "state of a known name":  # BUILD on what a name means would change it for everyone
        return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    if name == "known name, other maker":
        return b"\x80\x02ctorch\nFloatStorage\nK\x01\x85R."
    if name == "torch.load":
        return b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00a\x85R."
    if name == "attribute of a stub":
        return b"\x80\x02c__torch__\nsystem\nX\x01\x00\x00\x00a\x85R."
    if name == "name from the stack":
        return b"\x80\x04\x8c\x02os\x8c\x06system\x93."
    if name == "instance":
        return b"(ios\nsystem\n."
    assert name == "in a state"
    call = pickle.dumps(Evil(os.system, f"touch {marker}"), protocol=2)[2:-1]
    return b"\x80\x02c__torch__\nCLIP\n)\x81}X\x01\x00\x00\x00a" + call + b"sb."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", r"names '(posix|nt|os)\.system', which is neither a tensor nor a module"),
        ("builtins.eval", r"names '(builtins|__builtin__)\.eval', which is neither"),
        ("pathlib", "has a step (FRAME|SHORT_BINUNICODE|STACK_GLOBAL), which TorchScript never writes"),
        ("state of a known name", "has Name where ScriptModule must be"),
        ("known name, other maker", r"makes something of torch\.FloatStorage that is unknown"),
        ("torch.load", r"names 'torch\.load', which is neither"),
        ("attribute of a stub", r"makes something of __torch__\.system that is unknown"),
        ("name from the stack", "has a step SHORT_BINUNICODE, which TorchScript never writes"),
        ("instance", "has a step INST, which TorchScript never writes"),
        ("in a state", r"names '(posix|nt|os)\.system', which is neither"),
    ],
)
def test_nothing_of_a_hostile_pickle_is_executed(good: Path, tmp_path: Path, name: str, message: str) -> None:
    marker = tmp_path / "executed"
    content = hostile(name, marker)
    if name in ("os.system", "builtins.eval"):  # the trap works, were it stepped into
        pickle.loads(content)
        assert marker.exists()
        marker.unlink()
    refused(rewritten(good, {"clip/data.pkl": content}), message)
    assert not marker.exists()


def tensor_pickle(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 4) -> bytes:
    """A module with one tensor of the storage 0."""
    storage = object()

    class Reference(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if thing is storage else None

    written = io.BytesIO()
    Reference(written, protocol=2).dump(
        Evil(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    )
    return b"\x80\x02c__torch__\nCLIP\n)\x81}X\x01\x00\x00\x00a" + written.getvalue()[2:-1] + b"sb."


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count", "message"),
    [
        ((2, 2), (2, 1), 0, 5, "holds 4 numbers of torch.float32, which is not what its data.pkl says"),
        ((3, 2), (2, 1), 0, 4, r"describes a tensor \[3, 2\] of 4 numbers"),
        ((2, 2), (2, 1), 1, 4, r"describes a tensor \[2, 2\] of 4 numbers"),
        ((2**40,), (0,), 0, 4, r"describes a tensor \[1099511627776\] of 4 numbers"),
        ((2,), (2**40,), 0, 4, r"describes a tensor \[2\] of 4 numbers"),
        ((2,), (1,), -1, 4, "by no sensible numbers"),
        ((-2, -2), (2, 1), 0, 4, "by no sensible numbers"),
        ((2,), (2, 1), 0, 4, "of 1 and 2 dimensions"),
        ((True, 2), (2, 1), 0, 4, "by no sensible numbers"),
    ],
)
def test_tensors_that_do_not_lie_in_their_bytes_are_refused(
    tmp_path: Path, size: Any, stride: Any, offset: int, count: int, message: str
) -> None:
    path = tmp_path / "clip.pt"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("clip/data.pkl", tensor_pickle(size, stride, offset, count))
        opened.writestr("clip/constants.pkl", b"")
        opened.writestr("clip/data/0", struct.pack("<4f", 1, 2, 3, 4))
    refused(path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip/data/7": None}, "'clip/data/7' is not in it"),
        ({"clip/data/7": b""}, "its data/7 holds 0 numbers"),
        ({"clip/data/7": b"\0" * 7}, "has 7 bytes, no whole number of|its data/7 holds"),
        ({"clip/data.pkl": None}, "holds 0 files data.pkl, one is expected"),
        ({"other/data.pkl": b""}, "holds 2 files data.pkl, one is expected"),
        ({"clip/data.pkl": b""}, "makes no sense|cut off"),
        ({"clip/data.pkl": b"\x80\x02K\x05."}, "holds int, not a module"),
        ({"clip/data.pkl": b"\x80\x02."}, "makes no sense"),
        ({"clip/data.pkl": b"\x80\x02K\x01t."}, "makes no sense"),
        ({"clip/data.pkl": b"\x80\x02)R."}, "makes no sense"),
        ({"clip/data.pkl": b"\x80\x02h\x05."}, "makes no sense"),
        ({"clip/data.pkl": b"\x80\x02K\x01K\x02K\x03\x87Q."}, "refers to something that is no storage"),
        ({"clip/data.pkl": b"\x80\x02" + b"0" * 9 + b"."}, "has a step POP"),
        ({"clip/data.pkl": b"\x80\x02" + b"N" * (2**22)}, "has more than 4194304 bytes"),
        ({"clip/byteorder": b"big"}, "not little endian"),
        (
            {"clip/data.pkl": b"\x80\x02c__torch__\nCLIP\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."},
            "its modules hold themselves, or are too many",
        ),
    ],
)
def test_damaged_archives_are_refused(good: Path, changes: dict[str, bytes | None], message: str) -> None:
    refused(rewritten(good, changes), message)


def test_paths_in_an_archive_lead_nowhere(good: Path, tmp_path: Path) -> None:
    (tmp_path / "7").write_bytes(members(good)["clip/data/7"])
    content = members(good)["clip/data.pkl"].replace(b"X\x01\x00\x00\x007", b"X\x04\x00\x00\x00../7")
    assert content != members(good)["clip/data.pkl"]
    refused(rewritten(good, {"clip/data.pkl": content}), "refers to something that is no storage")


def test_an_archive_that_unfolds_is_refused(good: Path) -> None:
    refused(rewritten(good, {}, compression=zipfile.ZIP_DEFLATED), "in it is compressed")


def test_an_archive_with_two_files_of_a_name_is_refused(good: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(good, "a") as opened:
        warnings.simplefilter("ignore")
        opened.writestr("clip/data/7", b"")
    refused(good, "it holds files of the same name")


def test_parts_that_overlap_are_refused(good: Path) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as opened:
        largest = max(opened.infolist(), key=lambda entry: entry.file_size)
    entries = 0
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # every file of data in the directory becomes the largest one
        name_length = struct.unpack_from("<H", content, at + 28)[0]
        name = bytes(content[at + 46 : at + 46 + name_length])
        if name.startswith(b"clip/data/"):
            struct.pack_into("<III", content, at + 16, largest.CRC, largest.file_size, largest.file_size)
            struct.pack_into("<I", content, at + 42, largest.header_offset)
            entries += 1
        at = content.find(b"PK\x01\x02", at + 4)
    assert entries > 50
    good.write_bytes(content)
    refused(good, "its parts overlap|is damaged|is refused")


def test_one_storage_seen_by_many_tensors_is_refused(good: Path) -> None:
    content = members(good)
    numbers = {name: data for name, data in content.items() if name.startswith("clip/data/")}
    largest = max(numbers, key=lambda name: len(numbers[name]))
    one = tensor_pickle((len(numbers[largest]) // 8,), (1,), count=len(numbers[largest]) // 4)
    start, end = one.index(b"ctorch._utils"), len(one) - 3
    tensor = one[start:end].replace(
        b"X\x01\x00\x00\x000", b"X" + struct.pack("<I", len(largest) - 10) + largest[10:].encode()
    )
    items = b"".join(b"X\x04\x00\x00\x00" + f"{number:04}".encode() + tensor for number in range(900))
    pickled = b"\x80\x02c__torch__\nCLIP\n)\x81}(" + items + b"ub."
    refused(rewritten(good, {"clip/data.pkl": pickled}), "its tensors claim more bytes than it has")


@pytest.mark.parametrize("cut", [0.999, 0.5, 0.01])
def test_a_file_that_is_cut_off_is_refused(good: Path, cut: float) -> None:
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * cut)])
    refused(good, "is cut off: its end is missing")


def test_flipped_bytes_are_noticed(good: Path) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as opened:
        middle = max(opened.infolist(), key=lambda entry: entry.file_size)
    content[middle.header_offset + 300 + middle.file_size // 2] ^= 0x10
    good.write_bytes(content)
    refused(good, "Bad CRC-32")


def test_what_is_no_weights_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(b"")
    refused(tmp_path / "clip.pt", "empty")
    (tmp_path / "clip.pt").write_text("<html>not found</html>")
    refused(tmp_path / "clip.pt", "damaged")


@torch.no_grad()
def test_the_numbers_are_what_torch_reads(tmp_path: Path) -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
            for kind in (*kinds, torch.int16, torch.int8, torch.uint8, torch.bool):
                self.register_buffer(
                    str(kind).replace(".", "_"), torch.tensor([[0, 1, 5], [2, 3, 1]]).to(kind)
                )
            self.register_buffer("turned", torch.arange(12.0).reshape(3, 4).T)
            self.register_buffer("part", torch.arange(12.0)[3:9:2])
            self.register_buffer("nothing", torch.zeros(0, 3))
            self.inner = nn.Linear(2, 2)
            self.sizes, self.share = [1, 2], {"a": 1.5}

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.inner(x)) * self.sizes[0] * self.share["a"]

    model = Kinds()
    found = named_tensors(read_torchscript(archive(tmp_path / "kinds.pt", model)))
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
