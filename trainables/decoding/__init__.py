"""From encoder states to token sequences (greedy, beam, CTC and joint search, editing), and the time of each token."""

from trainables.decoding.alignment import Word, ctc_align
from trainables.decoding.ctc import ctc_beam, ctc_greedy
from trainables.decoding.decode import Search
from trainables.decoding.edit import edit
from trainables.decoding.greedy import greedy
from trainables.decoding.search import Hypotheses, beam_search

__all__ = ["Hypotheses", "Search", "Word", "beam_search", "ctc_align", "ctc_beam", "ctc_greedy", "edit", "greedy"]
