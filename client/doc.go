// Package client gets access tokens from a tokenbroker, keeps them for as long as they are good, and puts them on requests.
//
//	tokens, err := client.New("unix:/run/tokenbroker/tokenbroker.sock")
//	api := tokens.Source("officernd-main").HTTPClient()
//	res, err := api.Get("/members") // at the API's base_url, with a token
//
// One Client is for a whole process: all goroutines share it, and each token that it has. Sources that ask for the same are one. A Source answers from memory until the broker wants
// to be asked again; then it asks in the background, and goes on answering. So a broker that restarts, or is away, disturbs nobody whose token is still good.
package client
