"""What runs rofo at scale: a Triton repository, a job for whole catalogues, container files."""
