"""Makes front-end processes: fresh interpreters, as nothing of gRPC or a GPU library survives a fork."""

import json
import signal
import socket
import subprocess
import sys

from cascade_serve.processes import messages
from cascade_serve.processes.channel import Channel
from cascade_serve.processes.messages import Settings

# The modules are looked for where this interpreter looks for them, whichever way it was started.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from cascade_serve.processes.child import main; main(int(sys.argv[2]))"
)


def spawn(settings: Settings) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a process.

    It is in a process group of its own: what a terminal sends to the foreground reaches the parent alone.

    Returns:
        the process, and the wire to it, whose first frame is the settings.

    Raises:
        OSError: the system can't start it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = (json.dumps(sys.path), str(theirs.fileno()), f"front-end process {settings.slot}")
        try:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    channel = Channel(ours, peer=f"front-end process {settings.slot}")
    channel.tell(messages.SETTINGS, settings.pack())
    return process, channel


def describe_end(returncode: int) -> str:
    """Tell how a process ended."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
