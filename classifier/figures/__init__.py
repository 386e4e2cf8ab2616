"""Figures of a result, each a matplotlib `Figure`: it shows itself in a notebook, and `.savefig("map.svg")` keeps it.

    from classifier import figures
    figures.host_map(result)
    figures.timeline(result.select(host="10.10.1.21"))

Each takes a `Result`, or a selection of one, of any size: what is too much for one page is gathered or left out, and
the figure says so. Colours are those of Okabe and Ito, which colour-blind readers tell apart; nothing depends on
colour alone where words or line styles can tell it. Times are UTC. Strings of strangers are text, never markup.
The only room that imports matplotlib. Must not know how labels are found.
"""

from classifier.figures.bars import bytes_by_path, unexplained
from classifier.figures.maps import host_map
from classifier.figures.times import endpoint_timeline, timeline

__all__ = ["bytes_by_path", "endpoint_timeline", "host_map", "timeline", "unexplained"]
