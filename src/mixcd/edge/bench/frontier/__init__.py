"""What a sweep found: prior against new score, method by method."""
