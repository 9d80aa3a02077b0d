"""What a data directory and its processes take, measured: many collections, and churn."""
