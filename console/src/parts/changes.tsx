/** Changes in words. */
import { List, Text } from '@mantine/core'
import type { ReactNode } from 'react'

import { pathText, type Change } from '../pure/diff'
import type { Json } from '../pure/json'

const SHOWN_MAX = 40
const VALUE_CHARS = 160

export function Changes({ changes }: { changes: Change[] }): ReactNode {
  if (changes.length === 0) return <Text c="dimmed">Nothing differs.</Text>
  return (
    <>
      <List size="sm" spacing={2} data-changes={changes.length}>
        {changes.slice(0, SHOWN_MAX).map((change) => (
          <List.Item key={pathText(change.path)}>
            <span className="mono">
              <b>{pathText(change.path)}</b>: {change.kind !== 'added' && <span className="removed">{brief(change.before)}</span>}
              {change.kind === 'changed' && ' → '}
              {change.kind !== 'removed' && <span className="added">{brief(change.after)}</span>}
              {change.kind !== 'changed' && ` (${change.kind})`}
            </span>
          </List.Item>
        ))}
      </List>
      {changes.length > SHOWN_MAX && <Text size="sm">and {changes.length - SHOWN_MAX} more</Text>}
    </>
  )
}

function brief(value: Json | undefined): string {
  const text = JSON.stringify(value) ?? ''
  return text.length > VALUE_CHARS ? `${text.slice(0, VALUE_CHARS)}…` : text
}
