"""Suffixes of the files that are read as images, papers and videos, in lower case."""

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
        *(".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".jxl"),
    }
)
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".mov", ".avi", ".webm", ".mkv", ".m4v"),
        *(".mpg", ".mpeg", ".3gp", ".ts", ".flv", ".wmv", ".ogv"),
    }
)
PDF = ".pdf"
