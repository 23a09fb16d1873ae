"""Best models are registered once, the champion is the best one, and every name resolves to its model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import babbler
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from command import unused_port
from found import SPLIT, Found
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from asr_platform import load_model
from asr_platform.cli.main import cli
from asr_platform.cli.options.parameters import ModelDirectory
from asr_platform.storage.home import Home
from asr_platform.study.run_record import STOPPED
from asr_platform.tracking.registry import MOST_CHARACTERS, BestModel, Registered, Registry, undefeated
from asr_platform.tracking.resolving import resolve_model
from asr_platform.tuning.best_model import best_of
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_files import WEIGHTS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return babbler.write_corpus(tmp_path_factory.mktemp("corpora") / "babble")


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with MLflow's tables, which take seconds to make."""
    home = Home.at(tmp_path_factory.mktemp("empty") / "mlruns")
    MlflowClient(home.tracking).search_experiments()
    return home.path


@pytest.fixture
def found(empty_home: Path, corpus: Corpus, tmp_path: Path) -> Found:
    """A sweep with one trial."""
    shutil.copytree(empty_home, tmp_path / "mlruns")
    sweep = Found(tmp_path / "mlruns", corpus)
    sweep.trial(wrong=2)
    return sweep


def versions(found: Found) -> dict[str, dict[str, str]]:
    """Trial numbers by version of the registered model."""
    return {str(one.version): one.tags["trial"] for one in found.client.search_model_versions(f"name='{found.name}'")}


def champion(found: Found) -> str:
    return str(found.client.get_model_version_by_alias(found.name, "champion").version)


def weights(model: Path) -> bytes:
    return (model / WEIGHTS).read_bytes()


# Registering


def test_the_best_model_is_registered_with_all_that_it_needs(found: Found) -> None:
    assert found.end() == Registered("small", "1")
    version = found.client.get_model_version_by_alias("small", "champion")
    assert version.run_id == found.parent
    assert version.description == (found.home.model("small") / "README.md").read_text()
    errors = {"split": "dev", "val_cer": str(found.ledger.trial(0).curve[0]["val_cer"]), "trial": "0", "epoch": "1"}
    assert errors.items() <= version.tags.items() and version.tags["corpus_hash"] == found.corpus.hash
    folder = resolve_model(found.home.path, "models:/small@champion").parent
    about = Model.load(str(folder))
    assert about.signature is not None and about.run_id == found.parent
    assert about.load_input_example(str(folder)) is not None
    assert {path.name for path in folder.iterdir()} >= {"code", "model", "serving.py", "requirements.txt"}
    assert [path.name for path in (folder / "code").iterdir()] == ["trainables"]
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("__pycache__"))
    (logged,) = found.client.get_run(found.parent).outputs.model_outputs
    assert found.client.get_logged_model(logged.model_id).status == LoggedModelStatus.READY
    link = found.client.get_logged_model(logged.model_id).tags["mlflow.modelVersions"]
    assert json.loads(link) == [{"name": "small", "version": version.version}]


def test_a_resumed_sweep_registers_what_is_new_and_nothing_twice(found: Found) -> None:
    """Each version keeps the weights with which it was registered."""
    found.end()
    assert found.end() == Registered("small", "1")
    found.trial(wrong=3)
    assert found.end() == Registered("small", "1")
    assert versions(found) == {"1": "0"}
    found.trial(wrong=1)
    assert found.end() == Registered("small", "2")
    assert (versions(found), champion(found)) == ({"1": "0", "2": "2"}, "2")
    for version, number in versions(found).items():
        model = Path(str(found.ledger.trial(int(number)).model))
        assert weights(resolve_model(found.home.path, f"models:/small/{version}")) == weights(model)
    assert weights(resolve_model(found.home.path, f"runs:/{found.parent}")) == weights(found.home.model("small"))
    assert found.said == []


def test_a_model_that_has_learned_nothing_is_no_champion(empty_home: Path, corpus: Corpus, tmp_path: Path) -> None:
    """It has a version, once; the first model that has learned something becomes the champion."""
    shutil.copytree(empty_home, tmp_path / "mlruns")
    found, utterances = Found(tmp_path / "mlruns", corpus), len(corpus.split(SPLIT))
    found.trial(wrong=utterances, lost=1.0)
    why = "nothing learned (val CER 100.00%: no better than an empty transcript)"
    assert found.end() == found.end() == Registered("small", "1", why)
    assert found.said == [f"models:/small/1 is not the champion: {why}"] * 2
    assert found.client.get_registered_model("small").aliases == {}
    model = BestModel.of(found.ledger, found.ledger.trial(0), found.home.model("small"))
    assert not Registry(found.client).lacks(model), "so the doctor has nothing to repair"
    card = (found.home.model("small") / "README.md").read_text()
    assert "**This model has learned nothing** (val CER 100.00%" in card
    found.trial(wrong=1)
    assert found.end() == Registered("small", "2") and champion(found) == "2"


@pytest.mark.parametrize(("wrong", "why"), [(3, "which is better"), (2, "which is as good")])
def test_a_champion_of_another_sweep_gives_way_to_better_models_alone(
    found: Found, tmp_path: Path, wrong: int, why: str
) -> None:
    """Two sweeps of one name, in two homes, write to one store."""
    found.end()
    other = Found(tmp_path / "other", found.corpus, store=found.home.tracking)
    other.trial(wrong)
    assert other.end() == Registered("small", "2", f"version 1 stays, {why}")
    assert other.said == [f"models:/small/2 is not the champion: version 1 stays, {why}"]
    assert champion(found) == "1"
    other.trial(wrong=1)
    assert other.end() == Registered("small", "3")
    assert champion(found) == "3"
    assert found.end() == Registered("small", "1", "version 3 stays, which is better")


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=6))
def test_whatever_the_order_the_first_of_the_best_is_the_champion(values: Sequence[float]) -> None:
    tags = [{"corpus_hash": "0", "split": "dev", "val_cer": str(value)} for value in values]
    place = 0
    for other in range(1, len(tags)):
        if not undefeated(tags[place], tags[other]):
            place = other
    assert place == values.index(min(values))


@pytest.mark.parametrize("other", [{"corpus_hash": "1"}, {"split": "dev-other"}, {"val_cer": ""}])
def test_figures_of_another_validation_displace_nothing(other: dict[str, str]) -> None:
    """A version that somebody has made by hand stays the champion, too."""
    ours = {"corpus_hash": "0", "split": "dev", "val_cer": "0.1"}
    theirs = {key: value for key, value in {**ours, "val_cer": "0.5", **other}.items() if value}
    assert "something else" in undefeated(theirs, ours)


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("log_model_artifacts", 0),
        ("finalize_logged_model", 0),
        ("log_outputs", 1),
        ("create_model_version", 1),
        ("set_registered_model_alias", 1),
    ],
)
def test_a_driver_that_is_killed_in_between_leaves_nothing_double(
    found: Found, step: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No incomplete model is taken for a complete one either."""

    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    def of_sweep() -> list[LoggedModel]:
        experiment = found.client.get_run(found.parent).info.experiment_id
        return list(found.client.search_logged_models([experiment], f"source_run_id='{found.parent}'"))

    found.callback().log_all()
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(MlflowClient, step, die)
        found.end()
    models = [one.model_id for one in of_sweep() if one.status == "READY"]
    assert len(models) == left
    assert found.end() == Registered("small", "1")
    (after,) = of_sweep()
    assert after.status == LoggedModelStatus.READY and (not models or after.model_id == models[0])
    assert versions(found) == {"1": "0"}
    assert [one.model_id for one in found.client.get_run(found.parent).outputs.model_outputs] == [after.model_id]


@pytest.mark.parametrize("cap", ["", "5 of 5 hours (--max-hours) are spent"])
def test_a_store_that_is_away_gets_the_model_when_it_is_back(found: Found, cap: str) -> None:
    """Whether the sweep has finished or reached a limit."""
    found.ledger.note("trials", 2 if cap else 1)
    found.ledger.note(STOPPED, cap)
    found.ledger.note("options", {"tracking_uri": f"http://127.0.0.1:{unused_port()}"})
    assert found.end() is None
    assert "MLflow cannot be written" in found.said[0] and "platform doctor small --repair" in found.said[-1]
    found.ledger.note("options", {})
    doctor = ["--home", str(found.home.path), "doctor", "small"]
    assert CliRunner().invoke(cli, doctor).exit_code == 1
    assert CliRunner().invoke(cli, [*doctor, "--repair"]).output.endswith("sweep small is sound\n")
    assert champion(found) == "1"
    shutil.rmtree(found.home.model("small"))
    found.client.delete_registered_model("small")
    assert CliRunner().invoke(cli, [*doctor, "--repair"]).output.endswith("sweep small is sound\n")
    assert found.end() == Registered("small", champion(found))


def test_what_cannot_be_registered_ends_no_sweep(found: Found) -> None:
    config = Path(str(found.ledger.trial(0).model)) / "config.json"
    about = json.loads(config.read_text())
    about["config"]["decoding"] |= {"method": "beam", "language_model": "/gone", "lm_weight": 0.3}
    config.write_text(json.dumps(about))
    assert found.end() is None
    (said,) = found.said
    assert said.startswith(
        "the best model cannot be registered: InputError: decoding.language_model: /gone is not there"
    )
    assert found.client.get_run(found.parent).info.status == "FINISHED"


def test_what_a_person_has_written_of_a_version_stays(found: Found) -> None:
    found.end()
    found.client.update_model_version("small", "1", description="Ours.")
    found.end()
    assert found.client.get_model_version("small", "1").description == "Ours."


def test_a_card_longer_than_mlflows_column_is_cut_there(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_platform.tuning.best_model.ModelCard.render", lambda card: "# small\n".ljust(6000, "A"))
    found.end()
    assert found.client.get_model_version("small", "1").description == "# small\n".ljust(MOST_CHARACTERS, "A")
    assert len((resolve_model(found.home.path, "models:/small/1") / "README.md").read_text()) == 6000


# Finding


def test_every_name_leads_to_its_model(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    found.trial(wrong=1)
    found.end()
    (logged,) = found.client.get_run(found.parent).outputs.model_outputs
    best = weights(found.home.model("small"))
    names = ["models:/small@champion", "models:/small/1", "models:/small/latest", f"models:/{logged.model_id}"]
    for name in [*names, f"runs:/{found.parent}", f"runs:/{found.parent}/model", f"runs:/{found.run(1)}"]:
        assert weights(resolve_model(found.home.path, name)) == best, name
    other = weights(resolve_model(found.home.path, f"runs:/{found.run(0)}"))
    trained = found.client.get_run(found.run(0)).data.tags["model_id"]  # the trial's own, whose files MLflow lacks
    for name in (f"runs:/{found.run(0)}/trial-0000", f"models:/{trained}"):
        assert weights(resolve_model(found.home.path, name)) == other != best
    monkeypatch.chdir(found.home.path)
    assert resolve_model(found.home.path, "models/small") == Path("models/small")
    assert resolve_model(Path("absent"), "absent") == Path("absent"), "a directory needs no home"


def test_a_model_directory_among_a_runs_artifacts_is_found(found: Found) -> None:
    """Earlier versions of the platform logged models as plain artifacts."""
    model = found.trial(wrong=1)
    found.end()
    client = found.client
    run = client.create_run(found.tracker().experiment).info.run_id
    client.log_artifacts(run, str(model), "model")
    assert weights(resolve_model(found.home.path, f"runs:/{run}")) == weights(model)
    client.log_artifacts(run, str(model), "other/place")
    assert weights(resolve_model(found.home.path, f"runs:/{run}/other/place")) == weights(model)


def test_every_store_is_asked_that_may_have_it(
    found: Found, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stores of the home's sweeps, and the store of MLFLOW_TRACKING_URI, which needs no home."""
    shutil.copy(empty_home / "mlflow.db", tmp_path / "other.db")
    other = Found(found.home.path, found.corpus, "other", store=f"sqlite:///{tmp_path}/other.db")
    other.trial(wrong=1)
    for sweep in (found, other):
        sweep.end()
    for sweep in (found, other):
        best = weights(sweep.home.model(sweep.name))
        for name in (f"models:/{sweep.name}@champion", f"runs:/{sweep.parent}", f"runs:/{sweep.run(0)}"):
            assert weights(resolve_model(found.home.path, name)) == best, name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert weights(resolve_model(tmp_path / "absent", "models:/other/1")) == weights(other.home.model("other"))
    assert not (tmp_path / "absent").exists()


def test_unknown_names_are_refused_and_the_known_ones_told(found: Found) -> None:
    found.trial(wrong=1)
    found.end()
    shutil.rmtree(Path(str(found.ledger.trial(0).model)))
    unknown = [
        "models:/smal@champion", "models:/small@best", "models:/small/7", "models:/small", "models:/", "runs:/0123",
        f"runs:/{found.parent}/record", "runs:/",
    ]  # fmt: skip
    for name in unknown:
        with pytest.raises(InputError) as error:
            resolve_model(found.home.path, name)
        assert name in error.value.problem and "models:/small@champion" in error.value.remedy, name
    with pytest.raises(InputError, match="its model is not on disk") as error:
        resolve_model(found.home.path, f"runs:/{found.run(0)}")
    assert "platform leaderboard" in error.value.remedy
    with pytest.raises(InputError, match="nothing has been run here"):
        resolve_model(found.home.path / "absent", "models:/small@champion")


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("foo://x", "MLFLOW_TRACKING_URI foo://x: no such kind of address"),
        ("sqlite:///{folder}/none/m.db", "there is no such file"),
    ],
)
def test_a_store_that_cannot_be_is_refused(
    store: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store is made."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(folder=tmp_path))
    with pytest.raises(InputError, match=why):
        resolve_model(tmp_path / "mlruns", "models:/small@champion")
    assert not list(tmp_path.iterdir())


def test_files_of_another_machine_are_said_to_be_there(found: Found) -> None:
    found.end()
    shutil.rmtree(resolve_model(found.home.path, "models:/small@champion").parent)
    with pytest.raises(InputError, match="which is not on this machine"):
        resolve_model(found.home.path, "models:/small@champion")


def test_every_command_means_the_same_by_model() -> None:
    names = {"model", "language_model"}
    takes = [(command, one) for command in cli.commands.values() for one in command.params if one.name in names]
    assert {str(command.name) for command, _ in takes} == {
        "check", "confirm", "evaluate", "export", "submit", "transcribe", "tune-decoding",
    }  # fmt: skip
    assert all(isinstance(one.type, ModelDirectory) for _, one in takes)


def test_commands_take_the_names(found: Found, tmp_path: Path) -> None:
    """Commands print what they print for the model's directory."""
    other = found.trial(wrong=1)
    found.end()
    data = ["--data", str(found.corpus.path), "--split"]

    def said(*words: str) -> str:
        ended = CliRunner().invoke(cli, ["--home", str(found.home.path), *words])
        assert ended.exit_code == 0, ended.output
        return ended.output

    model, name = str(found.home.model("small")), "models:/small@champion"
    recording = tmp_path / "noise.wav"
    soundfile.write(recording, np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    for words in (["evaluate", *data, "dev", "--json"], ["transcribe", str(recording)]):
        assert said(words[0], name, *words[1:]) == said(words[0], model, *words[1:])
    assert load_model(name, home=found.home.path).transcribe(recording) == load_model(model).transcribe(recording)
    for one in (model, name):
        said("submit", one, *data, "test", "--out", str(tmp_path / f"{len(one)}.csv"))
    assert len({path.read_text() for path in tmp_path.glob("*.csv")}) == 1
    compared = json.loads(said("compare", name, f"runs:/{found.run(0)}", "--json"))
    assert compared["cer"] == json.loads(said("compare", "small:1", "small:0", "--json"))["cer"]
    compared = json.loads(said("compare", name, str(other), *data, "dev", "--json"))
    assert compared["cer"]["difference"] == 0


# The card


def test_the_card_tells_the_data_the_figures_and_their_intervals(found: Found) -> None:
    for _ in range(2):
        found.trial(wrong=1)
    found.end()
    card = (found.home.model("small") / "README.md").read_text()
    errors, best = found.ledger.trial(1).curve[0]["val_cer"], best_of(found.ledger.trials())
    assert best is not None and card.startswith("# small\n") and f"trial {best.number}, epoch 1" in card
    for text in (
        f"| CER | {errors:.2%} | 0.00% to", "3 utterances", "3 trials, but not significantly different from trial",
        "from tiny", found.corpus.hash, "| dev | 3 | 0.00 |", "kaldi, 8 bins", "| optimizer.lr |",
        "sampler tpe, seed 0", "3 complete", "platform transcribe models:/small@champion",
        f"MLFLOW_TRACKING_URI={found.home.tracking}", '`",ABC` and spaces',
    ):  # fmt: skip
        assert text in card, text
    assert len(card) < MOST_CHARACTERS
