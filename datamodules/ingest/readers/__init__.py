"""One reader a kind of source: video file, DICOM, numbered pictures, still."""
