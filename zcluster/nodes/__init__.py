"""What masters and workers have alike beside requests and file sync: agents at their door, resources, live configuration."""
