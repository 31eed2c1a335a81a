"""What is built on datasets: an hourly report that follows closed hours."""
