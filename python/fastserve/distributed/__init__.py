"""Groups of ranks that run one model together. A group is a value that is handed in: there is no global one."""
