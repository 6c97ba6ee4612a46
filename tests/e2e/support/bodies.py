"""Bodies that are small to send and large to read."""


def zstd_of_spaces(size, window_log=20):
    """A frame of blocks that each repeat one byte: the smallest for its content that the format has (RFC 8878, 3.1)."""
    block = 128 * 1024
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    blocks = [(block << 3 | 1 << 1 | last).to_bytes(3, "little") + b" " for last in (0, 1)]
    return header + blocks[0] * (size // block - 1) + blocks[1]
