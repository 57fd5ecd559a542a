"""torchvision, imported so that it loads beside any build of torch."""

from typing import Any

import torch


def _import_torchvision() -> Any:
    """Import torchvision also beside a torch without CUDA, where PyPI's build cannot load its compiled operators.

    torchvision registers Python halves of `nms` and `qnms` at import and needs their schemas. We use neither, so where
    the compiled library is missing the schemas alone are declared. The library object must stay alive.
    """
    try:
        import torchvision.transforms.v2
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.transforms.v2

        torchvision.schemas_only = library
    return torchvision


torchvision = _import_torchvision()
