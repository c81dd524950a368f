"""The questions: kernels applied lazily to stores and labelled arrays."""
