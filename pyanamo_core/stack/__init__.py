"""The CloudFormation stack that owns a workflow's compute: its template, its life, and what an administrator is handed."""
