# %% [markdown]
# # A sweep in a notebook
#
# The verbs are those of the command line. What a command prints with `--json` comes back here: rows as a DataFrame, an
# object as a dictionary. Home is `mlruns` here, or $ASR_PLATFORM_HOME, unless `home=` says otherwise.

# %%
import soundfile

from asr_platform import Sweep, load_model

# %% [markdown]
# A space is a YAML file, the name of a shipped one, or a dictionary.

# %%
space = {
    "base": {
        "model": {"d_model": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "conv_channels": 16},
        "training": {"update_seconds": 4.0},
    },
    "vary": {"model.feed_forward": {"int": [32, 64]}, "optimizer.lr": {"log": [1.0e-3, 1.0e-2]}},
    "trials": 8,
    "epochs": 2,
}

# %% [markdown]
# What will it take? Unprofiled, a plan trains nothing, and says nothing of hours, memory and disk.

# %%
Sweep.plan(space, "corpus", profile=False)["parameters"]

# %% [markdown]
# It runs here and says a line an event; interrupt the kernel, and it stops cleanly. `sweep.resume()` goes on with it,
# and `sweep.resume(trials=8)` adds trials to a finished one.

# %%
sweep = Sweep.start(space, "corpus", name="notebook", trials=2)

# %%
sweep.leaderboard()

# %% [markdown]
# How it is, what a trial printed, and one page about all of it.

# %%
sweep.status()["state"]

# %%
sweep.logs(0)

# %%
sweep.report()

# %%
sweep.best["params"]

# %% [markdown]
# Can the two trials be told apart? By the utterances that they were validated on, and by any split:

# %%
sweep.compare(0, 1)["cer"]["tied"]

# %%
sweep.compare(0, 1, data="corpus", split="test")["utterances"]

# %% [markdown]
# Which keys matter, as far as the finished trials can say, and whether the best was luck.

# %%
earlier = Sweep.open("first")

# %%
earlier.importances()

# %%
earlier.confirm(top=1, seeds=2, method="joint", beam=2)

# %% [markdown]
# The model: of a sweep, or any model directory.

# %%
model = load_model(earlier.model)

# %%
model.evaluate("corpus", "dev", method="joint", beam=2)

# %% [markdown]
# It takes files, and samples of any rate, of any length. `transcripts` also says when each word was said.

# %%
model.transcribe(["noise.wav"])

# %%
samples, rate = soundfile.read("noise.wav")
model.transcribe(samples, rate)

# %%
model.transcripts("noise.wav")
