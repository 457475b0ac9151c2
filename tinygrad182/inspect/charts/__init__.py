"""Charts that single views and the microscope's page both draw."""
