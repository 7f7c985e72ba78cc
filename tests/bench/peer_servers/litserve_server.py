"""A graph behind LitServe with batching, as its documentation sets it up: `litserve_server.py <graph.onnx> <port>`."""

import sys

import litserve
import numpy as np
import onnxruntime

MAX_BATCH_REQUESTS = 32
BATCH_TIMEOUT_S = 0.001


class OnnxApi(litserve.LitAPI):
    """Scores the rows of several requests at once."""

    def setup(self, device: str) -> None:
        """Open the graph."""
        del device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - LitServe takes an annotation for a schema
        """Return a request's rows."""
        categorical_BC = np.asarray(request["categorical"], dtype=np.int64)
        return categorical_BC, np.asarray(request["numeric"], dtype=np.float32)

    def batch(self, inputs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Put the rows of all requests together."""
        ends = np.cumsum([len(categorical_BC) for categorical_BC, _ in inputs])[:-1]
        return np.concatenate([c for c, _ in inputs]), np.concatenate([n for _, n in inputs]), ends.tolist()

    def predict(self, x: tuple[np.ndarray, np.ndarray, list[int]]) -> list[np.ndarray]:
        """Score the rows, and take them apart again."""
        categorical_BC, numeric_BN, ends = x
        (predicted_B,) = self.session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
        return np.split(predicted_B, ends)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        """Return the answers, one a request."""
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - the same
        """Return an answer."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        OnnxApi(max_batch_size=MAX_BATCH_REQUESTS, batch_timeout=BATCH_TIMEOUT_S),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
