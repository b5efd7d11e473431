/** Somebody else saved while one was editing: what they did, what is in the editor, and the two ways on. */
import { Alert, Button, Group, SimpleGrid, Text } from '@mantine/core'
import type { ReactNode } from 'react'

import { clashes, pathText, type Change } from '../pure/diff'
import { Changes } from './changes'

/** `mine` is undefined while the text cannot be read. */
export function Meanwhile({ what, theirs, mine, rebase, discard }: { what: string; theirs: Change[]; mine: Change[] | undefined; rebase: () => void; discard: () => void }): ReactNode {
  const both = clashes(theirs, mine ?? [])
  return (
    <Alert color="denim" variant="light" role="alert" title={`Somebody changed ${what} while you were editing`}>
      <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="sm">
        <Side name="theirs" title="Saved by them" changes={theirs} />
        <Side name="mine" title="Yours, not saved" changes={mine} />
      </SimpleGrid>
      {both.length > 0 && (
        <Text size="sm" mt="xs" data-clashes={both.length}>
          You both changed <span className="mono">{both.map(pathText).join(', ')}</span>: with yours on top, yours stays.
        </Text>
      )}
      <Group mt="sm" gap="xs">
        <Button size="xs" onClick={rebase} disabled={mine === undefined}>
          Put my changes on top
        </Button>
        <Button size="xs" variant="default" onClick={discard}>
          Discard mine
        </Button>
      </Group>
    </Alert>
  )
}

function Side({ name, title, changes }: { name: string; title: string; changes: Change[] | undefined }): ReactNode {
  return (
    <div data-side={name}>
      <Text size="sm" fw={600}>
        {title}
      </Text>
      {changes === undefined ? <Text size="sm">The text is not JSON yet.</Text> : <Changes changes={changes} />}
    </div>
  )
}
