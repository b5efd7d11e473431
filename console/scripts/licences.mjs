// Every package of the lock file has a licence that we may ship, or is a tool that we do not ship.
import { readFileSync } from 'node:fs'

const SHIPPED = new Set(['MIT', 'Apache-2.0', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'Unlicense', 'CC0-1.0', '(MIT OR CC0-1.0)'])
/** Used at the desk and in the gate only; nothing of theirs is in dist/. */
const TOOLS = new Map([
  ['axe-core', 'MPL-2.0'],
  ['lightningcss', 'MPL-2.0'],
])
const lock = JSON.parse(readFileSync(new URL('../package-lock.json', import.meta.url), 'utf8'))
const faults = []
let count = 0
for (const [path, entry] of Object.entries(lock.packages)) {
  if (path === '') continue
  count += 1
  const name = path.replace(/^.*node_modules\//, '')
  if (!entry.integrity || (entry.resolved !== undefined && !entry.resolved.startsWith("https://registry.npmjs.org/"))) faults.push(`${name} does not come from the registry with a checksum`)
  const tool = [...TOOLS].some(([held, licence]) => (name === held || name.startsWith(`${held}-`)) && entry.license === licence && (entry.dev || entry.optional))
  if (!SHIPPED.has(entry.license) && !tool) faults.push(`${name} has licence ${entry.license ?? '(none named)'}`)
}
if (faults.length > 0) {
  console.error(faults.join('\n'))
  process.exit(1)
}
console.log(`${count} packages, all with licences that are allowed`)
