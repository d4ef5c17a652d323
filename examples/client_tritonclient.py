"""Ask a served cascade with NVIDIA's plain tritonclient: the protocol is the Open Inference Protocol.

Start a server first, such as: cascade-serve serve demo_out/repository
Then: python examples/client_tritonclient.py 127.0.0.1:8001 digits demo_out/test/7/*.png
"""

import sys
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput


def main(url: str, model: str, *files: str) -> None:
    """Classify some files at a threshold and under a cap of their own."""
    encoded = InferInput("encoded", [len(files)], "BYTES")
    encoded.set_data_from_numpy(np.array([Path(file).read_bytes() for file in files], dtype=np.object_))
    wanted = [InferRequestedOutput(name) for name in ("label", "confidence", "exit_stage", "exit_reason", "flops")]
    with InferenceServerClient(url) as client:
        result = client.infer(
            model,
            [encoded],
            outputs=wanted,
            # Thresholds and caps are parameters of the request; numbers may also be sent as text.
            parameters={"confidence_threshold": "0.95", "max_flops": "250M", "policy": "default"},
            client_timeout=10,
        )
    columns = [result.as_numpy(output.name()) for output in wanted]
    for file, label, sure, stage, reason, flops in zip(files, *columns, strict=True):
        print(f"{file}: class {label} ({sure:.3f}) from stage {stage}, {reason.decode()}, for {flops:,} FLOPs")
    print({name: result.get_response().parameters[name] for name in ("policy", "certified")})


if __name__ == "__main__":
    main(*sys.argv[1:])
