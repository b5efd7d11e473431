import { createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'

import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

/** Libraries that change on their own and are fetched only by the pages that need them. */
const CHUNKS = [
  // First, or a group whose packages import them takes them along, and the first view waits for it.
  { name: 'react', test: /node_modules\/(react|react-dom|scheduler|use-sync-external-store)\//, priority: 10 },
  { name: 'editor', test: /node_modules\/(@codemirror|@lezer|crelt|style-mod|w3c-keyname|@marijn)\// },
  { name: 'graph', test: /node_modules\/(@xyflow|@dagrejs|d3-[a-z]+|zustand|classcat)\// },
  { name: 'chart', test: /node_modules\/uplot\// },
  // Mantine's parts go with the pages that use them; those of every page into the entry.
  { name: 'vendor', test: /node_modules\/(?!@mantine|@floating-ui|react-remove-scroll|react-number-format|react-transition-group)/ },
]

/** Paths of the hub; in development they are passed on to one that runs. */
const HUB_PATHS = ['/api', '/devices', '/twins', '/statistics']

export default defineConfig({
  base: '/console/',
  plugins: [react()],
  build: {
    target: 'es2022',
    outDir: process.env.CONSOLE_OUT ?? 'dist',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 900,
    rolldownOptions: {
      output: {
        // Stable names: the hub answers with an ETag of the content, and history stays small.
        entryFileNames: 'assets/[name].js',
        chunkFileNames: 'assets/[name].js',
        assetFileNames: 'assets/[name][extname]',
        codeSplitting: { groups: CHUNKS },
      },
    },
  },
  worker: {
    format: 'es',
    rolldownOptions: { output: { entryFileNames: 'assets/[name].js' } },
  },
  server: { proxy: Object.fromEntries(HUB_PATHS.map((path) => [path, hubProxy()])) },
  test: { include: ['test/**/*.test.ts'], environment: 'node' },
})

/** Passes calls on to `SELVEDGE_HUB`; signs them if `SELVEDGE_LOGIN` names an owner.connection. */
function hubProxy() {
  const hub = process.env.SELVEDGE_HUB ?? 'https://127.0.0.1:8443'
  const login = process.env.SELVEDGE_LOGIN
  return {
    target: hub,
    secure: false,
    changeOrigin: true,
    // The hub takes a session's calls from its own pages only.
    headers: { origin: hub, ...(login ? { authorization: token(readFileSync(login, 'utf8').trim()) } : {}) },
  }
}

function token(connection: string): string {
  const fields = new Map(connection.split(';').map((part): [string, string] => {
    const at = part.indexOf('=')
    return [part.slice(0, at), part.slice(at + 1)]
  }))
  const resource = encodeURIComponent(fields.get('HostName') ?? '')
  const expiry = Math.floor(Date.now() / 1000) + 86_400
  const key = Buffer.from(fields.get('SharedAccessKey') ?? '', 'base64')
  const signature = createHmac('sha256', key).update(`${resource}\n${expiry}`).digest('base64')
  const name = fields.get('SharedAccessKeyName') ?? ''
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${name}`
}
