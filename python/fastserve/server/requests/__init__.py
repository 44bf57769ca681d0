"""Request bodies: read within limits, checked, made into settings; how the API describes them."""
