"""What the benchmarks share: the machine, the services, the load and how results are kept."""
