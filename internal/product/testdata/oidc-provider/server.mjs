// An authorization server that nobody here wrote: node-oidc-provider, for the issuer that is its argument, on a loopback port that the system
// chooses and that is its first line of output: {"port": N}. It ends when standard input does.
//
// POST /tests/refresh-token answers with a refresh token of a new grant of the client "person", as if a human had allowed it.
import {createServer} from 'node:http';
import Provider, {errors} from 'oidc-provider';

const issuer = process.argv[2];
const api = 'https://api.example.com';

const client = (id, method, more = {}) => ({
  client_id: id, client_secret: process.env.CLIENT_SECRET, redirect_uris: [], response_types: [], grant_types: ['client_credentials'],
  token_endpoint_auth_method: method, ...more,
});

const provider = new Provider(issuer, {
  clients: [
    client('post', 'client_secret_post', {scope: 'read write'}),
    client('narrow', 'client_secret_post', {scope: 'read'}),
    client('basic', 'client_secret_basic', {scope: 'read write'}),
    client('person', 'client_secret_post', {
      grant_types: ['authorization_code', 'refresh_token'], redirect_uris: ['https://app.example.com/callback'], response_types: ['code'],
      scope: 'openid offline_access read',
    }),
  ],
  scopes: ['openid', 'offline_access', 'read', 'write'],
  features: {
    clientCredentials: {enabled: true},
    devInteractions: {enabled: false},
    introspection: {enabled: true, allowedPolicy: () => true},
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => {
        if (resource !== api) throw new errors.InvalidTarget();
        return {scope: 'read write', audience: resource, accessTokenTTL: 600, accessTokenFormat: 'jwt', jwt: {sign: {alg: 'RS256'}}};
      },
    },
  },
  rotateRefreshToken: true,
  ttl: {AccessToken: 600, ClientCredentials: 600, RefreshToken: 86400, Grant: 86400},
  findAccount: (ctx, id) => ({accountId: id, claims: () => ({sub: id})}),
});
provider.proxy = true; // TLS ends before it

provider.use(async (ctx, next) => {
  if (ctx.method !== 'POST' || ctx.path !== '/tests/refresh-token') return next();
  const asked = await provider.Client.find('person');
  const grant = new provider.Grant({accountId: 'somebody', clientId: asked.clientId});
  grant.addOIDCScope('openid offline_access read');
  const token = new provider.RefreshToken({
    accountId: 'somebody', client: asked, grantId: await grant.save(), scope: 'openid offline_access read', gty: 'authorization_code',
    authTime: Math.floor(Date.now() / 1000),
  });
  ctx.body = {refresh_token: await token.save()};
});

const server = createServer(provider.callback());
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({port: server.address().port})));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
