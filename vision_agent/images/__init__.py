"""Images, videos and the folders and addresses they come from."""
