"""What it costs to have ranks in processes of their own."""
