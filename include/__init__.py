import os

__version__ = "0.5.0"

# onnxruntime sends names and hashes of models to its maker, unless it is told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
