"""Text-to-speech by espeak-ng, loaded into this process from the wheel `espeakng-loader`."""

from __future__ import annotations

import _ctypes
import ctypes

import espeakng_loader
import numpy as np
import soxr

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.errors import InputError

# From espeak-ng's speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2  # the callback gets the samples before the call returns
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH = 1, 3
_NOISE_SEED = 1

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, rate: int, pitch: int) -> Samples:
    """Speech (N,) at 16 kHz in [-1, 1]; equal arguments give equal samples.

    The library keeps state such as a pitch flutter between utterances, even after it is terminated. It is therefore
    loaded anew for each utterance (a few milliseconds), and its noise generators are seeded.

    Args:
        text: plain text.
        voice: language and variant, such as "en-us+f2".
        rate: words per minute, 80 to 450.
        pitch: 0 to 100; 50 is the voice's usual pitch.

    Raises:
        InputError: espeak-ng has no such voice.
    """
    blocks: list[np.ndarray] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = espeakng_loader.get_data_path().encode()
        own_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _INITIALIZE_DONT_EXIT)
        if own_rate <= 0:
            raise RuntimeError(f"espeak-ng did not start (status {own_rate}) with its data in {data.decode()}")
        callback = _CALLBACK(collect)  # kept in a name: the library does not own it
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
        ctypes.CDLL(None).srand(_NOISE_SEED)  # aspiration noise comes from the C library
        if library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"espeak-ng has no voice {voice!r}", "Choose a language and variant such as en-us+f2.")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode() + b"\0"
        status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
        if status:
            raise RuntimeError(f"espeak-ng could not speak {text!r} (status {status})")
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    samples = np.concatenate(blocks).astype(np.float32) / 32768.0
    return np.asarray(soxr.resample(samples, own_rate, SAMPLE_RATE), dtype=np.float32)
