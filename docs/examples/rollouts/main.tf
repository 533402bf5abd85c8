variable "fraud_version" {
  type        = number
  description = "The version of fraud that is to serve."
}

# Applying a new number begins a rollout and waits for it. A version that is rolled back fails the apply, and the next
# apply tries again.
resource "terraform_data" "fraud" {
  triggers_replace = [var.fraud_version]

  provisioner "local-exec" {
    command = "sluice rollout start fraud --to ${var.fraud_version} --plan ${path.module}/plan.yaml --key terraform-${self.id} --wait --timeout 2h"
  }
}
