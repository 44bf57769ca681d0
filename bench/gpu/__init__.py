"""What `bench/gpu_check.sh` runs on a machine with a GPU; every part also runs on a CPU with tiny sizes."""
