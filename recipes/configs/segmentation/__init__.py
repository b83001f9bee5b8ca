"""One segmentation experiment, one short file with a function `config()`."""
