"""The configuration of a training run, as one typed tree.

The tree defines the configuration file, the keys that a search space may vary (`model.dropout`), the logged
parameters, and the reference in `docs/configuration.md`. Invalid values are refused when the tree is built, before
anything is loaded. `parsing.py` reads it from files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainables.bounds import LARGEST_BEAM, LARGEST_SEED, MOST_EPOCHS, MOST_TOKENS
from trainables.config.data import Augmentation, Data, Features, SpecAugment
from trainables.config.former_keys import with_update_keys
from trainables.config.model import ConfigSection, Epochs, Layers, Model, Probability, Share

PASS_SECONDS = 200.0  # of audio in a pass on a CPU, at most: larger ones take more memory, and as long
PASS_TOKENS = 32768  # in a pass of a language model outside of a GPU's training, at most


class Tokenizer(ConfigSection):
    """SentencePiece tokenizer, trained on the training transcripts."""

    kind: Literal["char", "bpe", "unigram"] = Field(
        "char", description="characters, byte-pair merges or a unigram model"
    )
    vocab_size: int | None = Field(
        None, ge=8, le=MOST_TOKENS, description="tokens, five special ones included; bpe and unigram only"
    )

    @model_validator(mode="after")
    def _size_belongs_to_subwords(self) -> Tokenizer:
        if self.kind == "char" and self.vocab_size is not None:
            raise ValueError(f"vocab_size={self.vocab_size} has no meaning with kind=char: leave it out")
        if self.kind != "char" and self.vocab_size is None:
            raise ValueError(f"kind={self.kind} needs a vocab_size, such as 1000")
        return self


class Loss(ConfigSection):
    """Training loss: cross-entropy of the decoder + ctc_weight x CTC loss of the encoder
    + attention_weight x guided attention.

    Of a transcript editor: CTC loss of the edited text + copy_weight x cross-entropy of copying the draft
    + draft_weight x CTC loss of the draft + mid_weight x CTC loss of the mid head, each a mean over its positions.
    """

    label_smoothing: Probability = Field(0.1, description="label smoothing of the cross-entropy")
    ctc_weight: float = Field(0.2, ge=0, le=1000, description="weight of the CTC loss; cross-entropy has weight 1")
    attention_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="encoder-decoder: weight of guided attention, the share of the attention that goes to states whose "
        "place in the audio is far from the token's place in the text; 0: attention is not guided",
    )
    copy_weight: float = Field(
        0.02, ge=0, le=1000, description="transcript editor: weight of the cross-entropy of copying the draft"
    )
    draft_weight: float = Field(
        0.3, ge=0, le=1000, description="transcript editor: weight of the CTC loss of the draft"
    )
    mid_weight: float = Field(
        0.3, ge=0, le=1000, description="transcript editor: weight of the CTC loss of the mid head, over characters"
    )


class Drafts(ConfigSection):
    """Transcript editor: the drafts that it learns to edit."""

    threshold: Share = Field(
        0.5,
        description="CER of the draft on the validation split below which the encoder's own drafts are edited; before, "
        "references are corrupted instead, since an untrained encoder drafts nothing worth editing",
    )
    corruption_rate: Share = Field(
        0.1, description="share of the tokens of a corrupted text that are deleted, replaced or followed by another"
    )
    corrupted_share: Share = Field(
        0.0, description="share of utterances whose own drafts are corrupted as well, below the threshold"
    )


class ParameterGroup(ConfigSection):
    """Learning rate and weight decay of some parameters; of several matching groups, the first counts."""

    pattern: str = Field(min_length=1, description="parameter names, with * and ?: encoder.layers.0.*")
    lr_scale: float = Field(1.0, ge=0, description="multiple of the scheduled learning rate; 0: frozen")
    weight_decay: float | None = Field(None, ge=0, description="default: optimizer.weight_decay")


class Optimizer(ConfigSection):
    """Optimizer and learning rate schedule."""

    name: Literal["adamw", "adam", "sgd", "muon"] = Field(
        "adamw", description="optimizer; muon: of the matrices of layers, with adamw for all other parameters"
    )
    lr: float = Field(4e-4, gt=0, description="peak learning rate")
    betas: tuple[Probability, Probability] = Field(
        (0.9, 0.98), description="decay of Adam's two running averages; sgd: momentum first"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices; not of biases, norms or embeddings")
    warmup: Share = Field(0.1, description="share of the updates in which the learning rate rises from 0")
    schedule: Literal["cosine", "cosine_restarts", "plateau", "noam", "one_cycle", "constant"] = Field(
        "cosine", description="learning rate schedule after warm-up"
    )
    final_lr: Share = Field(0.01, description="lowest learning rate as a share of the peak")
    cycles: Epochs = Field(3, description="cosine_restarts: number of cycles of equal length")
    patience: int = Field(
        2, ge=0, le=MOST_EPOCHS, description="plateau: epochs without a lower validation loss before the rate falls"
    )
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: factor by which the learning rate falls")
    layer_decay: float = Field(1.0, gt=0, le=1, description="a layer's learning rate as a multiple of the next layer's")
    groups: tuple[ParameterGroup, ...] = Field((), description="parameter groups: pattern, lr_scale, weight_decay")


class Pretrained(ConfigSection):
    """Pretrained weights: of another recogniser, or of a language model in the decoder or editor."""

    model: str | None = Field(
        None,
        description="model directory of a recogniser whose weights initialise those of equal name and shape, and those "
        "of each token that both have",
    )
    decoder: str | None = Field(
        None, description="model directory of a language model that initialises the decoder or editor"
    )
    frozen_epochs: int = Field(0, ge=0, le=MOST_EPOCHS, description="epochs in which the pretrained weights are frozen")
    lr_scale: float = Field(1.0, gt=0, description="multiple of the scheduled learning rate for pretrained weights")

    @model_validator(mode="after")
    def _needs_weights(self) -> Pretrained:
        if self.decoder is None and self.model is None and (self.frozen_epochs or self.lr_scale != 1):
            raise ValueError("frozen_epochs and lr_scale need pretrained.model or pretrained.decoder, a directory")
        return self


class Stage(ConfigSection):
    """A stage of progressive training before the full model is trained; default: the run's own values."""

    epochs: Epochs = Field(1, description="length of the stage in epochs")
    encoder_layers: Layers | None = Field(None, description="number of encoder layers in use, from the first on")
    decoder_layers: Layers | None = Field(
        None, description="number of layers of the decoder or editor in use, from the first on"
    )
    freeze: tuple[str, ...] = Field((), description="frozen parameters, with * and ?: encoder.layers.0.*")
    dropout: Probability | None = Field(None, description="dropout probability in the stage")
    label_smoothing: Probability | None = Field(None, description="label smoothing in the stage")
    data: float = Field(1.0, gt=0, le=1, description="share of the training utterances in use")


class Training(ConfigSection):
    """Length, updates and precision of the training, and averaging of weights."""

    epochs: Epochs = Field(20, description="passes over the training split, stages included")
    update_seconds: float = Field(
        200.0, gt=0, le=1e6, description="seconds of audio per update of all workers, with padding"
    )
    pass_seconds: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = Field(
        "auto",
        description="most seconds of audio in a forward pass of one worker, with padding; an update takes as many "
        f"passes as it needs; auto: as many seconds as the GPU's free memory holds, {PASS_SECONDS:g} on a CPU",
    )
    clip_norm: float = Field(1.0, gt=0, description="gradient clipping: largest gradient norm")
    update_tokens: int = Field(
        8192, ge=1, le=10**9, description="language model: tokens per update of all workers, with padding"
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="float type of the forward pass; auto: bf16 on GPUs that have it"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="compiled encoder and decoder layers in training; auto: on a GPU, for 10 epochs in a row or more",
    )
    ema: Probability = Field(
        0.0,
        description="decay per update of the moving average of the weights, after a gradual rise; 0: no average",
    )
    average: int = Field(
        1,
        ge=1,
        le=1000,
        description="number of best epochs of the full model whose weights are averaged into the final model",
    )
    stages: tuple[Stage, ...] = Field((), description="stages of progressive training before the full model")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of initialisation, batches and augmentation")

    @model_validator(mode="before")
    @classmethod
    def _read_former_keys(cls, tree: Any) -> Any:
        return with_update_keys(tree) if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _stages_end_before_training(self) -> Training:
        staged = sum(stage.epochs for stage in self.stages)
        if self.stages and staged >= self.epochs:
            raise ValueError(
                f"stages take {staged} epochs of {self.epochs}: at least one must be left for the full model"
            )
        return self


DECODING_OF_EDITORS = ("editing_steps",)
"""Keys of the section `decoding` without a meaning for a model that is no transcript editor."""
DECODING_NOT_OF_EDITORS = (
    "temperature",
    "repeat_penalty",
    "length_penalty",
    "ctc_weight",
    "candidates",
    "language_model",
    "lm_weight",
    "hotwords",
    "hotword_weight",
)
"""Keys of the section `decoding` without a meaning for a transcript editor.

`beam` has one: its draft can be searched with ctc_beam."""


class Decoding(ConfigSection):
    """Decoding method in validation, evaluation and transcription."""

    method: Literal["greedy", "beam", "ctc", "ctc_beam", "joint"] = Field(
        "greedy",
        description="ctc: greedy; ctc_beam: prefix beam search; joint: beam search with attention and CTC",
    )
    beam: int = Field(5, ge=1, le=LARGEST_BEAM, description="beam size: hypotheses kept for each utterance")
    temperature: float = Field(1.0, gt=0, le=1000, description="temperature by which the decoder's logits are divided")
    repeat_penalty: float = Field(
        1.0, ge=1, le=1000, description="factor by which tokens already in the hypothesis are penalised; 1: none"
    )
    length_penalty: float = Field(0.0, ge=0, le=10, description="hypotheses are ranked by score / length ^ penalty")
    ctc_weight: Share = Field(0.3, description="joint: weight w in (1 - w) x attention + w x CTC")
    candidates: int = Field(20, ge=1, le=MOST_TOKENS, description="joint: tokens of each hypothesis scored by CTC")
    language_model: str | None = Field(None, description="model directory of a language model for shallow fusion")
    editing_steps: int = Field(1, ge=1, le=100, description="transcript editor: passes of the editor, with greedy")
    lm_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the language model's score in shallow fusion")
    hotwords: str = Field("", description="words and phrases to favour in a beam search, separated by commas")
    hotword_weight: float = Field(
        1.0, ge=0, le=100, description="added to a hypothesis' log-probability for each token of a hotword in it"
    )

    @model_validator(mode="after")
    def _weight_belongs_to_a_language_model(self) -> Decoding:
        if self.lm_weight and self.language_model is None:
            raise ValueError(f"lm_weight={self.lm_weight} needs decoding.language_model, a model directory")
        if self.lm_weight and self.method in ("ctc", "ctc_beam"):
            raise ValueError(f"lm_weight={self.lm_weight} has no meaning with method={self.method}: use joint or beam")
        if self.hotwords and self.method not in ("beam", "joint"):
            raise ValueError(f"hotwords have no meaning with method={self.method}: use joint or beam")
        return self

    @property
    def hotword_phrases(self) -> list[str]:
        """The hotwords one by one, without spaces around them."""
        return [phrase for part in self.hotwords.split(",") if (phrase := " ".join(part.split()))]


class Config(ConfigSection):
    """Configuration of one training run."""

    data: Data = Data()
    features: Features = Features()
    specaugment: SpecAugment = SpecAugment()
    augmentation: Augmentation = Augmentation()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    pretrained: Pretrained = Pretrained()
    loss: Loss = Loss()
    drafts: Drafts = Drafts()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    decoding: Decoding = Decoding()

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        mistakes = []
        frozen, epochs = self.pretrained.frozen_epochs, self.training.epochs
        if frozen >= epochs:
            mistakes.append(f"pretrained.frozen_epochs={frozen} of training.epochs={epochs}: one must be left at least")
        if self.model.kind == "language_model":
            named = [key for key in ("model", "decoder") if getattr(self.pretrained, key) is not None]
            mistakes += [f"pretrained.{key} has no meaning with model.kind=language_model" for key in named]
            if any(stage.encoder_layers is not None for stage in self.training.stages):
                mistakes.append("a stage's encoder_layers have no meaning with model.kind=language_model")
        elif self.data.text is not None:
            mistakes.append(f"data.text={self.data.text} has no meaning with model.kind={self.model.kind}")
        mistakes += self.editor_conflicts().values() if self.model.kind == "transcript_editor" else ()
        name = "model.editor.layers" if self.model.kind == "transcript_editor" else "model.decoder_layers"
        available = {
            "encoder_layers": ("model.encoder_layers", self.model.encoder_layers),
            "decoder_layers": (name, self.model.token_layers),
        }
        for number, stage in enumerate(self.training.stages):
            for key, (name, layers) in available.items():
                active = getattr(stage, key)
                if active is not None and active > layers:
                    mistakes.append(f"training.stages.{number}: {key}={active} of {name}={layers}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def editor_conflicts(self) -> dict[str, str]:
        """Values that no transcript editor can have, whatever the kind of this model: reasons by key."""
        decoding, found, no_meaning = self.decoding, {}, "has no meaning with model.kind=transcript_editor"
        if decoding.method in ("beam", "joint"):
            remedy = "use greedy, which edits, or ctc or ctc_beam, which give the draft"
            found["decoding.method"] = f"decoding.method={decoding.method} {no_meaning}: {remedy}"
        if decoding.lm_weight:
            reason = f"decoding.lm_weight={decoding.lm_weight} {no_meaning}, which writes all tokens at once"
            found["decoding.lm_weight"] = f"{reason}: leave it out"
        if decoding.method in ("ctc", "ctc_beam") and decoding.editing_steps > 1:
            reason = f"decoding.editing_steps={decoding.editing_steps} has no meaning with method={decoding.method}"
            found["decoding.editing_steps"] = f"{reason}, which gives the draft: use greedy"
        smooth = [number for number, stage in enumerate(self.training.stages) if stage.label_smoothing is not None]
        if smooth:
            stages = ", ".join(f"training.stages.{number}" for number in smooth)
            found["training.stages"] = f"{stages}: label_smoothing {no_meaning}: leave it out"
        return found
