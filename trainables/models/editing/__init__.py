"""The transcript editor: a recogniser without autoregression, which corrects a draft of the whole text in one pass.

After "NLE: Non-autoregressive LLM-based ASR by Transcript Editing" (arXiv 2603.08397) and Granite Speech NAR. In the
order of the computation: `draft.py` (the encoder's draft), `projector.py` (audio positions), `slots.py` (tokens and
slots), `editor.py` (the editing pass), `transcript_editor.py` (the assembled model), `losses.py`.
"""
