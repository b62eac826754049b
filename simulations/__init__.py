"""Many hospitals on one machine: partitions, engines, comparisons of arms."""
