"""From encoder states to token sequences: greedy, beam, CTC and joint search."""

from trainables.decoding.ctc import ctc_beam, ctc_greedy
from trainables.decoding.decode import Search
from trainables.decoding.greedy import greedy
from trainables.decoding.search import Hypotheses, beam_search

__all__ = ["Hypotheses", "Search", "beam_search", "ctc_beam", "ctc_greedy", "greedy"]
