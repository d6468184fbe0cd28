"""Reading and writing files and folders, local or gs://: atomicity, access and errors."""
