"""One folder a model: here, or in the folder that TRADEWIND_MODELS names instead."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("TRADEWIND_MODELS") or Path(__file__).parent).resolve()
__path__ = [str(FOLDER)]  # where `include.models.<name>` is looked up
