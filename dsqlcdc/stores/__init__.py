"""Where checkpoints, pieces of oversized rows and dead letters are kept. Each implements a port of dsqlcdc.core.ports."""
