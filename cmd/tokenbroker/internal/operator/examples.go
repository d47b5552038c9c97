package operator

// Help implements kong.HelpProvider: an example of what people do most.
func (*credentialCreateCommand) Help() string {
	return `A secret that is not given is asked for, and not shown:

  tokenbroker credential create officernd-main --provider officernd --input client_id=YOUR_ID
  tokenbroker credential create snov-main --provider snov --input client_id=YOUR_ID --secret client_secret=@FILE`
}

// Help implements kong.HelpProvider.
func (*credentialRotateCommand) Help() string {
	return `Set the new one, try it, and then forget the former:

  tokenbroker credential rotate-secret officernd-main --secret client_secret=@FILE
  tokenbroker credential test officernd-main
  tokenbroker credential retire-secret officernd-main`
}

// Help implements kong.HelpProvider.
func (*credentialApplyCommand) Help() string {
	return `See first what would change:

  tokenbroker credential apply -f credentials.yaml --dry-run`
}

// Help implements kong.HelpProvider.
func (*credentialListCommand) Help() string {
	return `Which need somebody:

  tokenbroker credential list --filter 'state = MISCONFIGURED'`
}

// Help implements kong.HelpProvider.
func (*providerTryCommand) Help() string {
	return `A secret that is not given is asked for, and not shown:

  tokenbroker provider try my-api.yaml --input client_id=YOUR_ID --scope read`
}

// Help implements kong.HelpProvider.
func (*policyExplainCommand) Help() string {
	return `Which word of which rule keeps a caller from a token:

  tokenbroker policy explain policy.yaml --caller spiffe://corp.example/ns/shop/sa/cart \
    --credential occtoo-main --label env=prod --operation get_token --scope products.read`
}
