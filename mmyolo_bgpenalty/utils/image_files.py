"""Check image files without decoding them. Standard library only."""

import os
import re
import stat

from mmyolo_bgpenalty.utils.files import reason

NO_FILE = 'not a regular file'  # for example, a folder or a pipe


def image_fault(path, look_inside: bool = True) -> str:
    """Why an image file cannot be read or is incomplete; '' if no fault is found.

    Args:
        path: a local file.
        look_inside: also read the file, which takes longer.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return NO_FILE
        if not status.st_size:
            return 'empty'
        if look_inside:
            with open(path, 'rb') as file:
                if file.read(2) == _JPEG_STARTS and _is_cut_off(file, status.st_size):
                    return 'truncated JPEG'
    except (OSError, ValueError) as error:
        return reason(error)
    return ''


_JPEG_STARTS, _JPEG_ENDS = b'\xff\xd8', b'\xff\xd9'


def _is_cut_off(file, size: int) -> bool:
    """Whether a JPEG is truncated. OpenCV 4 decodes such a file and leaves the rest grey."""
    file.seek(max(0, size - 64))
    if file.read().rstrip(b'\0\r\n').endswith(_JPEG_ENDS):
        return False
    # Other data may follow the image, and a preview in its header has an end marker too. So read segment by segment.
    file.seek(0)
    content, place = file.read(), 2
    while 0 <= place < len(content) - 1:
        marker = content[place : place + 2]
        if marker == _JPEG_ENDS:
            return False
        if content[place] != 0xFF or len(content) < place + 4:
            return True
        length = int.from_bytes(content[place + 2 : place + 4], 'big')
        place += 2 + length
        if marker == b'\xff\xda':
            ends = _NEXT_MARKER.search(content, place)
            if not ends:
                return True
            place = ends.start()
    return True


# Inside a scan, 0xff is followed by 0, a restart marker or another 0xff.
_NEXT_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
