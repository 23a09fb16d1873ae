"""Operations of a training pass that are joined into fewer kernels than torch runs by itself."""
