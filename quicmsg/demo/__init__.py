"""`python -m quicmsg.demo`: two people talk, one changes network in the middle, every tick is true.

A real server process, two real client processes, all on this computer, everything in a directory that is
removed afterwards. `story.py` is what happens, `peer.py` one user, `processes.py` the processes seen from
outside, `account.py` what happened to each message and the independent count, `screen.py` what is shown.
"""
