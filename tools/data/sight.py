"""What of its images an evaluation does not see."""

from collections.abc import Sequence

from tools.data.annotations import VOCObject


def sight_note(sizes: Sequence[tuple[int, int]], objects: list[list[VOCObject]], image_size: int) -> str:
    """Say in one line what the top-left square of images cuts off, or return "" if no image is larger.

    Args:
        sizes: (height, width) of the images in pixels; objects: theirs, as far as they are known.
        image_size: S, pixels. A box is out of sight if none of its pixels is in the square.

    >>> print(sight_note([(60, 90), (64, 64)], [], 64))
    1 of 2 images are larger than --image_size 64, and only their top-left square is evaluated: give --eval_resize to \
fit whole images into it, or a larger --image_size
    """
    larger = sum(max(size) > image_size for size in sizes)
    if not larger:
        return ""
    boxes = [item.box for of_image in objects for item in of_image if item.box]
    hidden = sum(max(min(left, right), min(top, bottom)) >= image_size + 1 for left, top, right, bottom in boxes)
    of_boxes = f" ({hidden:,} of {len(boxes):,} labeled boxes are out of sight)" if boxes else ""
    return (
        f"{larger:,} of {len(sizes):,} images are larger than --image_size {image_size}, and only their top-left "
        f"square is evaluated{of_boxes}: give --eval_resize to fit whole images into it, or a larger --image_size"
    )
