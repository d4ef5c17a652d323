"""What every engine asks of a request before it takes slots for it."""
# Shapes: B rows of a request, HWC image.

import numpy as np

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.core.request import Request
from cascade_serve.errors import InvalidRequestError, LateError


def check_images(images_BHWC: ImageArray, task: Task, max_rows: int) -> None:
    """Refuse images that don't fit.

    Args:
        images_BHWC: as they came.
        task: gives the image size.
        max_rows: of one request.

    Raises:
        InvalidRequestError: they have another type or shape, or there are none or too many.
    """
    if images_BHWC.dtype != np.uint8:
        raise InvalidRequestError("images", f"datatype {images_BHWC.dtype}", "UINT8")
    if images_BHWC.ndim != 4 or images_BHWC.shape[1:] != task.image_shape or len(images_BHWC) == 0:
        wanted = ", ".join(map(str, task.image_shape))
        raise InvalidRequestError("images", f"shape {list(images_BHWC.shape)}", f"[n, {wanted}] with n at least 1")
    if len(images_BHWC) > max_rows:
        raise InvalidRequestError("images", f"{len(images_BHWC)} rows", f"at most {max_rows} rows")


def check_deadline(request: Request, now_s: float) -> None:
    """Refuse a request that is late already.

    Raises:
        LateError: it is.
    """
    if request.deadline_s is not None and request.deadline_s <= now_s:
        raise LateError(f"the deadline passed {now_s - request.deadline_s:.3f} s before admission")
