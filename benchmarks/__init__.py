"""What is fast and how we know: see `python -m benchmarks --help`."""

# Before torch is loaded, whose threads it tells how to wait.
import recognition.common.command_line  # noqa: F401

# Every case is a function of its own name in this module; given a device it yields rows.
CASES = {
    "transformer": "transformer",
    "ur_lstm": "ur_lstm",
    "mlstm": "mlstm",
    "mamba2": "mamba2",
    "steps": "steps",
    "batch": "data",
    "generate": "data",
    "epoch": "data",
    "busy": "busy",
    "preprocess": "films",
    "clips": "clip_reading",
    "clip_step": "clip_training",
    "captions": "captions",
    "caption_step": "captions",
    "knn_search": "captions",
    "search": "search",
}
GPU_CASES = ["transformer", "ur_lstm", "mlstm", "mamba2", "epoch", "preprocess"]
