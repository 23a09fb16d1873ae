"""The command line: a user's mistake is two lines and exit code 2."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command import PLATFORM
from place import Run

MISTAKES = [
    # a space
    ("sweep nosuch --data corpus", "nosuch: no such search space", "digits, digits_lm, hw4p1, hw4p2, synthetic"),
    ("sweep wrong.yaml --data corpus", "wrong.yaml: 3 mistakes", "line 2: base.model.dropuot: unknown key"),
    ("sweep wrong.yaml --data corpus", "line 4: vary.optimizer.lr: low > 0", "line 5: budgte: unknown key"),
    ("sweep not.yaml --data corpus", "not.yaml, line 1: not valid YAML", "Correct"),
    ("sweep impossible.yaml --data corpus", "impossible.yaml: budget: 1,000", "the smallest model that this space can"),
    ("sweep hours.yaml --data corpus", "hours.yaml: 1 mistake", "line 3: limits.hours: YAML 1.1 takes 1:30 for 90"),
    ("plan octal.yaml --data corpus", "octal.yaml: 1 mistake", "line 1: trials: YAML 1.1 takes 010 for 8"),
    ("train words.yaml --data corpus", "words.yaml: 1 mistake", "base.model.gated: YAML 1.1 takes yes for true"),
    ("train hours_config.yaml --data corpus", "hours_config.yaml: 1 mistake", "training.epochs: YAML 1.1 takes 1:30"),
    ("sweep aliases.yaml --data corpus", "aliases.yaml, line 5: more than 10,000 values", "Leave out aliases"),
    ("sweep twice.yaml --data corpus", "twice.yaml: 1 mistake", "line 2: vary.model.d_model: choice has a value twice"),
    ("sweep many.yaml --data corpus", "many.yaml: 2 mistakes", "line 1: trials: Input should be less than or equal"),
    ("sweep many.yaml --data corpus", "many.yaml: 2 mistakes", "line 2: limits.hours: Input should be"),
    ("sweep wide_space.yaml --data corpus", "wide_space.yaml: 1 mistake", "base.model.d_model: Input should be less"),
    ("train wide.yaml --data corpus", "wide.yaml: model.d_model: Input should be less than", "Correct the keys"),
    ("sweep", "SPACE and --data", "platform sweep digits --data"),
    ("sweep right.yaml", "SPACE and --data", "platform sweep digits --data"),
    # a corpus
    ("sweep right.yaml --data absent", "absent: no corpus here", "platform prepare"),
    ("sweep right.yaml --data file", "'file' is a file", "--data"),
    ("sweep right.yaml --data other-version", "corpus.json: corpus format 99", "Prepare the corpus again"),
    ("sweep right.yaml --data no-file", "missing no-file/train.arrow", "Copy the whole corpus again"),
    ("sweep right.yaml --data no-dev", "no-dev: no validation splits", "data.validation"),
    ("sweep right.yaml --data no-train", "no-train: no training splits", "data.train"),
    ("sweep right.yaml --data two-devs", "two-devs: 2 validation splits", "data.validation to one of: dev-a, dev-b"),
    ("sweep right.yaml --data outside", "corpus.json: splits.../corpus/train", "Prepare the corpus again"),
    # a name, a home
    ("sweep right.yaml --data corpus --name small", "sweep small exists", "platform sweep --resume small"),
    ("sweep right.yaml --data corpus --name a/b", "--name 'a/b'", "letters, digits"),
    ("sweep right.yaml --data corpus --name=", "--name ''", "letters, digits"),
    ("sweep --resume small --name=", "--resume goes on as the sweep began", "SPACE, caps, --trials, --address"),
    ("sweep --resume=", "no sweep named", "The sweeps are: small, moved"),
    ("--home s3://bucket/runs status", "s3://bucket/runs: an address, not a path", "folder on this machine"),
    ("sweep right.yaml --data s3://bucket/corpus", "s3://bucket/corpus: an address", "folder on this machine"),
    ("prepare synthetic --out gs://bucket/corpus", "gs://bucket/corpus: an address", "folder on this machine"),
    ("evaluate s3://bucket/model --data corpus --split dev", "s3://bucket/model: an address", "on this machine"),
    ("--home file sweep right.yaml --data corpus", "'file' is a file", "--home"),
    ("--home file/x sweep right.yaml --data corpus", "file/x: cannot be written to", "another --home"),
    ("sweep right.yaml --data corpus --notify beep", "--notify beep: neither bell nor", "--notify bell"),
    # going on
    ("sweep --resume smal", "no sweep named smal", "The sweeps are: small, moved, changed, latest"),
    ("sweep --resume small --name other", "--resume goes on as the sweep began", "SPACE, caps, --trials, --address"),
    ("sweep --resume small --warm-start small", "--resume goes on as the sweep began", "caps, --trials, --address"),
    ("sweep right.yaml --data corpus --warm-start smal", "no sweep named smal", "The sweeps are: small, moved"),
    ("sweep --resume small --gpus-per-worker 0", "--resume goes on as", "SPACE, caps, --trials, --address"),
    ("sweep --resume small right.yaml --data corpus", "--resume goes on as", "SPACE, caps, --trials, --address"),
    ("sweep --resume small nosuch", "nosuch: no such search space", "digits"),
    ("sweep --resume small wrong.yaml", "wrong.yaml: 3 mistakes", "line 5: budgte: unknown key"),
    ("sweep --resume small longer.yaml", "longer.yaml: epochs: a sweep cannot change it", "start a new sweep"),
    ("--home new sweep --resume small", "new: nothing has been run here", "platform sweep first"),
    ("sweep --resume moved", "gone: no corpus here", "platform prepare"),
    ("sweep --resume changed", "no-dev: not the corpus that sweep changed began with", "new sweep"),
    ("sweep --resume small --trials 0", "--trials", "0 is not in the range"),
    # caps and plans
    ("sweep right.yaml --data corpus --max-hours 0", "--max-hours", "0.0 is not in the range"),
    ("sweep right.yaml --data corpus --max-device-hours x", "--max-device-hours", "'x' is not a valid float"),
    ("sweep right.yaml --data corpus --max-hours nan", "--max-hours", "nan is not a finite number"),
    ("sweep --resume small --max-disk-gb inf", "--max-disk-gb", "inf is not a finite number"),
    ("sweep right.yaml --data corpus --gpus-per-worker nan", "--gpus-per-worker", "nan is not a finite number"),
    ("sweep right.yaml --data corpus --trials 10000000000000000000000000", "--trials", "is not in the range"),
    ("prepare synthetic --train 1000000000000000000000000000000 --out new-corpus", "--train", "is not in the range"),
    ("plan nosuch --data corpus", "nosuch: no such search space", "digits, digits_lm, hw4p1, hw4p2, synthetic"),
    ("plan right.yaml", "Missing option '--data'", "platform plan"),
    ("plan right.yaml --data absent", "absent: no corpus here", "platform prepare"),
    ("plan right.yaml --data no-dev", "no-dev: no validation splits", "data.validation"),
    ("plan impossible.yaml --data corpus", "impossible.yaml: budget: 1,000", "the smallest model that this space can"),
    ("plan right.yaml --data corpus --workers-per-trial 999", "a trial of 999 workers", "Lower --workers-per-trial"),
    # MLflow's store
    ("sweep right.yaml --data corpus --tracking-uri here", "--tracking-uri here: no such kind", "http://HOST:5000"),
    ("train right.yaml --data corpus --tracking-uri http:/host", "http:/host: no such kind", "http://HOST:5000"),
    ("sweep --resume small --tracking-uri file:///x", "file:///x: no such kind", "postgresql://HOST/NAME"),
    ("doctor small --tracking-uri sqlite:///x.db", "sqlite:///x.db: not an absolute path", "with four slashes"),
    ("ui --tracking-uri http://me:secret@host", "a password in the address", "MLFLOW_TRACKING_PASSWORD"),
    ("sweep right.yaml --data corpus --tracking-uri postgresql+no://host/x", "postgresql+no", "driver with pip"),
    ("sweep right.yaml --data corpus --tracking-uri http://[::1", "http://[::1: no address", "http://HOST:5000"),
    ("sweep right.yaml --data corpus --notify http://[::1", "--notify http://[::1: neither bell nor", "--notify bell"),
    ("sweep right.yaml --data corpus --tracking-uri http://host/?token=x", "would be kept", "MLFLOW_TRACKING_TOKEN"),
    ("ui --tracking-uri http://[::1", "http://[::1: no address", "http://HOST:5000"),
    ("ui --tracking-uri sqlite:////etc/passwd", "sqlite:////etc/passwd: not a SQLite database", "Correct the path"),
    ("ui --tracking-uri sqlite:////absent/m.db", "sqlite:////absent/m.db: there is no such file", "Correct the path"),
    ("ui smal", "no sweep named smal", "The sweeps are: small, moved"),
    # one long run
    ("train --data corpus", "SPACE_OR_CONFIG or --from", "platform train --help"),
    ("train right.yaml --from small --data corpus", "SPACE_OR_CONFIG or --from", "platform train --help"),
    ("train nosuch --data corpus", "nosuch: no such search space", "digits"),
    ("train config.yaml --data corpus", "config.yaml: model: heads must divide d_model", "trainign: unknown key"),
    ("train not.yaml --data corpus", "not.yaml, line 1: not valid YAML", "Correct the file's YAML"),
    ("train --from small:best --data corpus", "small:best: best is no trial's number", "NAME:TRIAL"),
    ("train --from smal --data corpus", "no sweep named smal", "small"),
    ("train --from small:7 --data corpus", "no trial 7 in the sweep small", "It has 2, counted from 0"),
    ("train --from latest --data corpus", "no trial of the sweep latest has finished", "--resume latest"),
    ("--home new train --from small --data corpus", "new: nothing has been run here", "platform --home"),
    ("train right.yaml --data no-dev", "no-dev: no validation splits", "data.validation"),
    # a model
    ("evaluate absent --data corpus --split dev", "absent: not a whole model directory", "features.json missing"),
    ("evaluate no-tokenizer --data corpus --split dev", "tokenizer.model missing", "folder of a trained model"),
    ("evaluate cut-model --data corpus --split dev", "cut-model/model.safetensors", "damaged"),
    ("evaluate flipped-model --data corpus --split dev", "flipped-model/model.safetensors: damaged", "another copy"),
    ("transcribe flipped-model good.wav", "flipped-model/model.safetensors: damaged", "delete flipped-model/checksums"),
    ("submit nan-model --data corpus --split test --out s.csv", "not finite numbers: ctc_head.bias", "another model"),
    ("evaluate nan-model --data corpus --split dev", "nan-model/model.safetensors: weights that are not finite", ""),
    ("evaluate no-layers --data corpus --split dev", "no-layers/config.json: active_layers: {}", "another copy"),
    ("transcribe many-layers good.wav", "many-layers/config.json: active_layers: {'encoder': 1000000000", "another"),
    ("export fewer-layers --out exported", "fewer-layers/config.json: active_layers.encoder", "another copy"),
    ("evaluate no-hash --data corpus --split dev", "no-hash/config.json: corpus_hash", "another copy"),
    ("evaluate wide-model --data corpus --split dev", "wide-model/config.json: config.model.d_model", "another copy"),
    ("evaluate model --data corpus --split dev --beam 1000000000", "--beam", "not in the range 1<=x<=1000"),
    ("evaluate model --data corpus --split dev --lm-weight nan", "--lm-weight", "nan is not a finite number"),
    ("transcribe model good.wav --piece-seconds nan", "--piece-seconds", "nan is not a finite number"),
    ("confirm small --temperature inf", "--temperature", "inf is not a finite number"),
    ("evaluate model --data corpus --split dve", "corpus: no split named 'dve'", "dev, test, train"),
    ("evaluate model --data corpus --split test", "split test has no texts", "platform submit"),
    ("evaluate model --data corpus", "Missing option '--split'", "platform evaluate"),
    ("evaluate model --data corpus --split dev --method viterbi", "'viterbi' is not one of", "'ctc_beam'"),
    ("evaluate model --data corpus --split dev --compare --method beam", "--compare runs every method", "--method"),
    ("evaluate model --data corpus --split dev --language-model lm", "lm has no weight", "--lm-weight"),
    ("evaluate model --data corpus --split dev --lm-weight 0.3", "needs decoding.language_model", "Correct the keys"),
    ("transcribe model", "Missing argument 'PATH...'", "platform transcribe"),
    ("transcribe model good.wav absent.wav", "no such file: absent.wav", "audio"),
    ("transcribe model good.wav cut.wav", "cut.wav: truncated audio", "Copy the file again"),
    ("transcribe model empty.wav", "empty.wav: zero-length file", "Replace the file"),
    ("transcribe model mlruns", "mlruns: no audio here", "folders"),
    ("transcribe model *.aiff", "no file matches *.aiff", "patterns"),
    ("transcribe model good.wav --format mp4", "'mp4' is not one of", "'srt'"),
    ("transcribe model good.wav ./good.wav --format srt", "--format srt holds one recording", "--out subtitles/"),
    ("transcribe model good.wav --out good.wav", "--out good.wav: one of the recordings", "another --out"),
    ("transcribe model good.wav --out absent/all.csv", "absent/all.csv: cannot be written", "--out"),
    ("transcribe model good.wav --piece-seconds 0.5", "--piece-seconds", "0.5 is not in the range"),
    ("transcribe no-tokenizer good.wav", "tokenizer.model missing", "folder of a trained model"),
    ("submit model --data corpus --split test --out file/s.csv", "file/s.csv: cannot be written", "--out"),
    ("submit model --data corpus --split test --out absent/s.csv", "absent/s.csv: cannot be written", "--out"),
    ("transcribe model good.wav --out link.txt", "link.txt: a symbolic link", "--out"),
    ("transcribe model good.wav --out /proc/x", "/proc/x: cannot be written", "--out"),
    ("submit model --data corpus --split test --out link.txt", "link.txt: a symbolic link", "--out"),
    ("submit model --data corpus --split test --out /proc/x", "/proc/x: cannot be written", "--out"),
    ("submit model --data corpus --split test --out /dev/null", "/dev/null: not a regular file", "--out"),
    ("export model --out /proc/x", "/proc: cannot hold a folder", "another place"),
    ("report small --out /proc/x", "/proc/x: cannot be written", "--out"),
    ("submit model --data corpus --split test --out corpus", "'corpus' is a directory", "--out"),
    # looking
    ("leaderboard smal", "no sweep named smal", "small"),
    ("compare smal model", "no sweep named smal", "small"),
    ("compare model model", "model: no errors of its validation are kept", "Give --data and --split"),
    ("--home new compare small model", "new: nothing has been run here", "platform sweep first"),
    ("importances smal", "no sweep named smal", "small"),
    ("confirm smal", "no sweep named smal", "small"),
    ("confirm moved", "gone: no corpus here", "platform prepare"),
    ("confirm latest --data corpus", "no trial of the sweep latest has finished", "--resume latest"),
    ("confirm small --data no-dev", "no-dev: not the corpus of the sweep small", "that corpus with --data"),
    ("confirm small --lm-weight 0.3", "needs decoding.language_model", "Correct the keys"),
    ("confirm small --top 0", "--top", "0 is not in the range"),
    ("--home new leaderboard", "new: nothing has been run here", "platform sweep first"),
    ("--home new ui", "new: nothing has been run here", "platform sweep first"),
    ("ui --port 99999", "--port", "99999 is not in the range"),
    ("ui --host 192.0.2.1", "no free port on 192.0.2.1", "--host"),
    ("doctor smal", "no sweep named smal", "small"),
    ("doctor moved", "gone: no corpus here", "platform prepare"),
    ("--home new doctor small", "new: nothing has been run here", "platform sweep first"),
    ("status smal", "no sweep named smal", "small"),
    ("--home new status", "new: nothing has been run here", "platform sweep first"),
    ("logs smal 0", "no sweep named smal", "small"),
    ("logs small 7", "no trial 7 in the sweep small", "It has 2, counted from 0"),
    ("logs small 0", "trial 0 of small has no log", "Its workers have not begun"),
    ("logs small first", "'first' is not a valid integer", "platform logs"),
    # preparing
    ("prepare hw4 absent --out new-corpus", "absent: no folders", "hw4p2_data"),
    ("prepare manifest absent.jsonl --out new-corpus", "absent.jsonl", ""),
    ("prepare fsdd corpus --out new-corpus", "corpus", ""),
    ("prepare librispeech absent --out new-corpus", "absent", ""),
    ("prepare synthetic --out corpus", "corpus: exists and is not empty", "--out"),
    ("prepare synthetic --train 8 --jobs 1 --out file/corpus", "file: ", "Correct the path"),
    ("prepare synthetic --train 8 --jobs 1 --out /proc/x", "/proc: cannot hold a folder", "another place"),
    ("prepare synthetic --skip-bad -1 --out new-corpus", "--skip-bad", "-1 is not in the range"),
    ("prepare hw4 absent", "Missing option '--out'", "platform prepare hw4"),
    # the command itself
    ("completion tcsh", "'tcsh' is not one of", "'fish'"),
    ("sewep", "No such command 'sewep'", "sweep"),
    ("sweep right.yaml --date corpus", "No such option", "--data"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "problem", "remedy"), MISTAKES)
def test_a_mistake_is_explained(run: Run, place: Path, words: str, problem: str, remedy: str) -> None:
    """It names the file, key or option, says what to do, and changes nothing."""
    before = sorted(place.rglob("*.csv")) + sorted(place.glob("*corpus*"))
    ended = run(*words.split())
    assert ended.code == 2, ended
    assert problem in ended.err and remedy in ended.err
    assert len(ended.err.strip().splitlines()) >= 2, "a problem and a remedy"
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert sorted(place.rglob("*.csv")) + sorted(place.glob("*corpus*")) == before


def test_a_taken_port_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run("ui", "--port", str(port))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"platform: port {port} of 127.0.0.1: Address already in use\n" + (
        "Say another --port, or --host 127.0.0.1.\n"
    )


def test_a_home_without_a_sweep(run: Run, place: Path) -> None:
    """A sweep that was refused leaves a home, but no sweep."""
    assert run("--home", "refused", "sweep", "right.yaml", "--data", "no-dev").code == 2
    ended = run("--home", "refused", "leaderboard")
    assert ended.code == 2
    assert "refused: nothing has been run here" in ended.err and "Run platform sweep first" in ended.err


def test_an_error_of_the_program_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Only what the system refuses is a message; a bug keeps its traceback."""

    def broken(*arguments: object) -> None:
        raise OSError("no error number: not the system's")

    monkeypatch.setattr("asr_platform.using.write_submission", broken)
    with pytest.raises(OSError, match="not the system's"):
        run("submit", "model", "--data", "corpus", "--split", "test", "--out", "s.csv")


# What the system refuses


def manifest(folder: Path, seconds: float = 0.1) -> Path:
    """A manifest of three utterances of noise to train on, and one to validate on."""
    lines = []
    for number in range(4):
        audio = folder / f"{number}.wav"
        soundfile.write(audio, 0.1 * np.random.default_rng(number).normal(size=round(16_000 * seconds)), 16_000)
        split = "train" if number else "dev"
        lines.append(json.dumps({"audio_filepath": str(audio), "text": "A CAB", "split": split}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("seconds", "room"), [(1.0, 10_000), (1.0, 61_000), (0.1, 1_000)])
def test_a_full_disk_while_preparing(tmp_path: Path, seconds: float, room: int) -> None:
    """The installed command, where no file may grow beyond `room` bytes.

    It gives out in the midst of the frames, in the Arrow file of the training split (3 x 126 frames of 160 bytes and
    the rest), or when all that is buffered is written. Nothing is left of the corpus, and the message names it.
    """
    out = tmp_path / "made" / "corpus"
    ended = subprocess.run(
        [PLATFORM, "prepare", "manifest", manifest(tmp_path, seconds), "--out", out, "--jobs", "1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert ended.returncode == 2, ended
    assert ended.stderr == f"platform: {out}: File too large\nFree space there, or choose another place.\n"
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(run: Run, tmp_path: Path) -> None:
    path = manifest(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    ended = run("prepare", "manifest", str(path), "--out", str(tmp_path / "closed" / "corpus"))
    assert ended.code == 2
    assert str(tmp_path / "closed") in ended.err and "may write to" in ended.err


def test_a_reader_that_has_seen_enough_is_no_error(place: Path) -> None:
    """As in `platform leaderboard | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [PLATFORM, "leaderboard", "small", "--json"], cwd=place, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 1
