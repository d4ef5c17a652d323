"""Several front-end processes on one port: a parent that starts, watches, sums up and stops them, and answers nothing.

The parent (``supervisor``) makes fresh interpreters (``spawning``), each of which is one
:class:`~cascade_serve.serving.FrontEnd` (``child``). A socket pair to each (``channel``) carries JSON both ways: what a
process serves, what the others serve (``house``), counts (``sums``), and changes that hold in all.
"""
