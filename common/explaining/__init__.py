"""What is said and drawn of the findings in images: pictures, tables, and the page of many images."""
