"""Training and decoding on a GPU: bf16, gathering in its memory, compiled kernels."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch

from trainables.config.data import Features, SpecAugment
from trainables.config.tree import Decoding
from trainables.data.batch_plan import Rows
from trainables.data.batching import Batch, DeviceSplit, Normalizer
from trainables.data.corpus import Corpus
from trainables.data.device import DeviceMemory, StreamedFrames
from trainables.data.device.placement import limit_share
from trainables.data.text.tokenizer import Tokenizer
from trainables.decoding import Search
from trainables.models.attention import attend_to_valid
from trainables.training.loop import Metrics, Trainer, train
from trainables.training.tasks.passes import kept_bytes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 has its own 24 bits of precision: TF32, torch's default for convolutions, has 11."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


MASKS = SpecAugment(frequency_masks=1, frequency_width=3, time_masks=2, time_width=0.2)


def gathered(corpus: Corpus, device: str, normalization: str) -> Batch:
    assert corpus.mean is not None and corpus.std is not None
    place = torch.device(device)
    split = corpus.training_split()
    normalizer = Normalizer(Features.model_validate({"normalization": normalization}), corpus.mean, corpus.std, place)
    data = DeviceSplit(split, Tokenizer.train(split.texts or [], tiny.config().tokenizer), normalizer, place)
    timing = data.timing(speed=0.1, warp=5, seed=0, epoch=1)
    masks = data.masks(MASKS, seed=0, epoch=1, timing=timing)
    return data.gather(Rows.of(np.array([4, 0, 11]), place), 100, None, masks, timing)


@pytest.mark.parametrize("normalization", ["global_mvn", "cepstral", "sliding", "none"])
def test_gathering_on_the_gpu_equals_gathering_on_the_cpu(normalization: str, tiny_corpus: Corpus) -> None:
    here, there = gathered(tiny_corpus, "cpu", normalization), gathered(tiny_corpus, "cuda", normalization)
    for name, expected in vars(here).items():
        found = getattr(there, name)
        assert found.is_cuda, name
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4, msg=name)


def test_streamed_features_give_the_batches_of_resident_ones(
    tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit; training on them gives the same losses, as far as a GPU adds in the same order."""
    expected, losses = gathered(tiny_corpus, "cuda", "cepstral"), history(tiny_corpus, "cuda", "float32", **STRATEGIES)
    monkeypatch.setattr(DeviceMemory, "of", lambda device: DeviceMemory(total=1, free=1))
    found, streamed = gathered(tiny_corpus, "cuda", "cepstral"), history(tiny_corpus, "cuda", "float32", **STRATEGIES)
    assert torch.equal(found.features_BTF, expected.features_BTF)
    for here, there in zip(losses, streamed, strict=True):
        assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-3)


def test_streaming_keeps_two_passes_in_the_gpu_s_memory() -> None:
    """However far the host is ahead of a GPU that is busy for long."""
    device, features = torch.device("cuda"), torch.ones(1_000_000, 80, dtype=torch.float16)
    lengths = np.full(1000, 1000)
    frames = StreamedFrames(features, lengths, np.arange(1000) * 1000, device)
    order, size = np.split(np.random.default_rng(0).permutation(1000), 10), 100_000 * 80 * 2  # bytes of a pass
    work, product = torch.ones(2, 8192, 8192, device=device)
    torch.mm(work, work, out=product)  # cuBLAS keeps what it allocates
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, sums = torch.cuda.memory_reserved(), []
    for indices, following in zip(order, [*order[1:], None], strict=True):
        frames.stage(indices, following)
        sums.append(frames.flat.sum(dtype=torch.float32))
        torch.mm(work, work, out=product)
    assert torch.stack(sums).tolist() == [100_000 * 80.0] * 10
    assert torch.cuda.max_memory_reserved() - before < 2.5 * size + 2**23  # with segments of small tensors


def test_a_process_with_a_fraction_of_a_gpu_is_held_to_it() -> None:
    device = torch.device("cuda", 0)
    limit_share(device, 0.25)
    try:
        memory = DeviceMemory.of(device)
        assert memory is not None and memory.share == pytest.approx(0.25, abs=1e-3)
        assert memory.room <= memory.total / 8
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * memory.total), dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def history(corpus: Corpus, device: str, precision: str, **leaves: Any) -> list[Metrics]:
    rows: list[Metrics] = []
    leaves = {"training.precision": precision, "optimizer.lr": 1e-3, "loss.label_smoothing": 0.1, **leaves}
    config = tiny.config(leaves)
    train(config, corpus, lambda metrics, save: rows.append(metrics), device=torch.device(device))
    return rows


STRATEGIES: dict[str, Any] = {
    "training.stages": [{"encoder_layers": 1, "freeze": ["ctc_head.*"], "data": 0.5}],
    "training.ema": 0.9,
    "training.average": 2,
    "optimizer.layer_decay": 0.8,
    "data.speed_perturbation": 0.1,
    "specaugment.time_warp": 5,
}


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_training_in_bf16_is_finite_and_learns(precision: str, tiny_corpus: Corpus) -> None:
    rows = history(tiny_corpus, "cuda", precision, **{"model.dropout": 0.1})
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


@pytest.mark.parametrize("leaves", [{}, STRATEGIES])
def test_the_gpu_gives_the_losses_of_the_cpu(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    rows = (history(tiny_corpus, device, "float32", **leaves) for device in ("cpu", "cuda"))
    for here, there in zip(*rows, strict=True):
        for name in ("train_loss", "val_loss"):
            assert there[name] == pytest.approx(here[name], rel=1e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_compiled_flex_attention_equals_sdpa(
    precision: torch.dtype, tolerance: float, bias: bool, is_causal: bool
) -> None:
    """The forward pass on padded lengths; the test of the whole model below covers gradients."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, 200, 32, device="cuda", dtype=precision)
    lengths_B = torch.tensor([200, 130, 1], device="cuda")
    table = torch.randn(1, 2, 200, 200, device="cuda") if bias else None
    found, expected = (
        attend_to_valid(kernel, lengths_B, 200, None, table, is_causal)(query, key, value)
        for kernel in ("flex", "sdpa")
    )
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("positions", ["none", "rotary", "relative"])
def test_a_model_learns_the_same_with_flex_attention(positions: str, tiny_corpus: Corpus) -> None:
    fields = {"model.encoder_positions": positions, "model.heads": 2}
    curves = []
    for kernel in ("sdpa", "flex"):
        rows: list[Metrics] = []
        config = tiny.config({"model.attention": kernel, **fields})
        train(config, tiny_corpus, lambda metrics, save, rows=rows: rows.append(metrics), device=torch.device("cuda"))
        curves.append([row["train_loss"] for row in rows])
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


EDITOR = {
    "model.kind": "transcript_editor", "model.pooling.window": 2, "model.editor.d_model": 32, "model.editor.heads": 2,
    "model.heads": 2, "drafts.threshold": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("block", ["transformer", "conformer"])
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_an_editor_learns_on_the_gpu_what_it_learns_on_the_cpu(kernel: str, block: str, tiny_corpus: Corpus) -> None:
    leaves = {**EDITOR, "model.attention": kernel, "model.encoder_block": block}
    here, there = (history(tiny_corpus, device, "float32", **leaves) for device in ("cpu", "cuda"))
    assert [row["train_loss"] for row in there] == pytest.approx([row["train_loss"] for row in here], rel=1e-2)


@pytest.mark.parametrize("method", get_args(Decoding.model_fields["method"].annotation))
def test_searches_on_the_gpu_equal_those_on_the_cpu(method: str) -> None:
    features_BTF, lengths_B = torch.randn(4, 40, tiny.BINS), torch.tensor([40, 9, 25, 1])
    found = []
    for device in ("cpu", "cuda"):
        model = tiny.model(0).to(device)
        with torch.no_grad():
            encoded = model.encode(features_BTF.to(device), lengths_B.to(device))
        search = Search(Decoding.model_validate({"method": method, "length_penalty": 0.5, "repeat_penalty": 1.2}))
        found.append(search(model, encoded, torch.tensor([12, 7, 9, 4], device=device)))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["encoder_decoder", "transcript_editor", "language_model"])
def test_passes_are_as_large_as_the_free_memory_allows(kind: str, tiny_corpus: Corpus) -> None:
    trainer = Trainer(tiny.config({"model.kind": kind}), tiny_corpus, torch.device("cuda"))
    trainer.task.start_epoch(1, [])
    free, kept = torch.cuda.mem_get_info()[0], kept_bytes(trainer.task, trainer.plan_of(1))
    assert 0.1 * free < trainer.pass_budget * kept < free
    assert all(len(update) == trainer.task.batches_per_update for update in trainer.updates_of(1))
